"""The span of a generation: below its caller's, with counts and codes, and nothing of what was asked or answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient
from starlette.types import Message

from engines.lmhost import tracing
from engines.lmhost.engine import Engine
from engines.lmhost.server import create_app
from tests.unit.lmhost.asker import chat

CANARY = "canary-71c9"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    found = InMemorySpanExporter()
    tracing.start(SimpleSpanProcessor(found))
    yield found
    tracing.stop()


@pytest.fixture
def client(engine: Engine) -> TestClient:
    return TestClient(create_app(engine, None), headers=HEADERS)


def ask(client: TestClient, engine: Engine, **changes: Any) -> dict[str, Any]:
    body = {"model": engine.base.id, "messages": chat(f"Who is {CANARY}?"), "max_tokens": 4, "temperature": 0, **changes}
    reply = client.post("/v1/chat/completions", json=body)
    return {} if body.get("stream") else dict(reply.json())


def only(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, dict[str, Any]]:
    (span,) = exporter.get_finished_spans()
    assert CANARY not in span.to_json()
    return span, dict(span.attributes or {})


@pytest.mark.parametrize("stream", [False, True])
def test_a_generation_is_below_its_call_with_tokens_and_queue_time(
    client: TestClient, engine: Engine, exporter: InMemorySpanExporter, stream: bool
) -> None:
    ask(client, engine, stream=stream, n=2)
    span, found = only(exporter)
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, CALLER)
    assert (span.name, span.resource.attributes["service.name"]) == (f"chat {engine.base.id}", "stillhouse-lm-host")
    assert (found["gen_ai.operation.name"], found["gen_ai.request.model"]) == ("chat", engine.base.id)
    assert found["gen_ai.usage.output_tokens"] == 8
    assert found["gen_ai.usage.input_tokens"] > 8
    assert found["gen_ai.response.finish_reasons"] == ("length", "length")
    assert span.start_time is not None
    assert span.end_time is not None
    assert 0 <= found["gen_ai.latency.time_in_queue"] <= (span.end_time - span.start_time) / 1e9


def test_a_refusal_is_a_failed_span_with_its_code(client: TestClient, engine: Engine, exporter: InMemorySpanExporter) -> None:
    code = ask(client, engine, model=CANARY)["error"]["code"]
    span, found = only(exporter)
    assert (span.name, found) == ("chat", {"gen_ai.operation.name": "chat", "error.type": code})
    assert not span.status.is_ok


def test_a_caller_who_goes_away_leaves_a_failed_span(engine: Engine, exporter: InMemorySpanExporter) -> None:
    body = json.dumps({"model": engine.base.id, "messages": chat(CANARY), "max_tokens": 100}).encode()
    arrives: Iterator[Message] = iter([{"type": "http.request", "body": body}, {"type": "http.disconnect"}])
    sent: list[Message] = []

    async def receive() -> Message:
        return next(arrives)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b""}
    asyncio.run(create_app(engine, None)(scope, receive, send))
    span, found = only(exporter)
    assert (sent[0]["status"], span.parent, found["error.type"]) == (499, None, "cancelled")
