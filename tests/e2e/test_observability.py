"""One job through all processes of a stack: its OpenTelemetry trace, the log lines of each process, and what is in neither."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from distill import tracing
from stack.plan import standard_parts
from stack.supervisor import Stack
from stillhouse import Stillhouse
from tests.e2e.lessons import PROGRAM, rows, teach
from tests.e2e.stacks import running_stack
from tests.support.canaries import leaks
from tests.support.scripted_lm import Answer, Ask, Fail, ScriptedLM
from tests.support.status_server import StatusServer, status_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LM_KEY, INPUT, INSTRUCTIONS, ANSWER = "key-of-the-teacher-83c1", "input-canary-41d7", "prompt-canary-9e02", "answer-canary-5b6f"
CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"


@dataclass(frozen=True)
class Evidence:
    """What is left of a stack that ran one job and was stopped.

    Attributes:
        request_id: of the request that made the job.
        spans: with the name of the process that sent each.
        logs: what each part wrote, by its name.
        sent: bodies that the collector got.
    """

    job: Any
    request_id: str
    parts: frozenset[str]
    spans: list[tuple[str, Span]]
    logs: dict[str, str]
    sent: list[bytes]

    def lines(self) -> dict[str, list[dict[str, Any]]]:
        return {part: [json.loads(line) for line in text.splitlines()] for part, text in self.logs.items()}

    def of_job(self) -> list[tuple[str, Span]]:
        return [(process, span) for process, span in self.spans if int.from_bytes(span.trace_id) == tracing.trace_id_of(self.job.id)]


def answer(ask: Ask) -> Answer:
    """The first request fails with an error that repeats the key and the prompt."""
    if ask.n == 0:
        return Fail(500, message=f"{LM_KEY} was refused for: {ask.text}")
    return {name: ANSWER if name == "answer" else text for name, text in dict(teach(ask)).items()}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def evidence(tiny_model: Path) -> Iterator[Evidence]:
    with status_server() as collector, ScriptedLM(answer=answer, api_key=LM_KEY) as teacher:
        environment = {"STILLHOUSE_TRACING__ENDPOINT": collector.url, "STILLHOUSE_SERVER__LOG_FORMAT": "json"}
        with running_stack(teacher, tiny_model, environment=environment, tracing_endpoint=collector.url, log_format="json") as stack:
            parts = frozenset(part.name for part in standard_parts(stack.layout))
            job, request_id = run_job(stack)
            stack.stop()  # each process sends its last spans
            yield Evidence(job, request_id, parts, read_spans(collector), read_logs(stack, parts), [body for _, body in collector.received])


def run_job(stack: Stack) -> tuple[Any, str]:
    program = copy.deepcopy(PROGRAM)
    for predictor in program["predictors"]:
        predictor["lm"] = "student"
    program["predictors"][1]["signature"]["instructions"] = f"Answer it. {INSTRUCTIONS}"
    data = [{**row, "message": f"{INPUT} {row['message']}"} for row in rows(12)]
    body = {
        "program": program,
        "trainset": data[:8],
        "valset": data[8:],
        "metric": {"type": "exact_match", "fields": ["category"]},
        "lms": {"student": {"max_tokens": 20, "train_options": {"n_epochs": 1, "batch_size": 8, "lora_r": 8}}},
        "num_threads": 2,
    }
    headers = {"Authorization": f"Bearer {stack.api_key}", "traceparent": f"00-{CALLER}-00f067aa0ba902b7-01"}
    made = httpx.post(f"{stack.base_url}/v1/compile_jobs", json=body, headers=headers, timeout=60)
    assert made.status_code == 201, made.text
    with Stillhouse(base_url=stack.base_url, api_key=stack.api_key) as client:
        return client.compile_jobs.wait(made.json()["id"], timeout=400), made.headers["x-request-id"]


def read_spans(collector: StatusServer) -> list[tuple[str, Span]]:
    groups = [group for _, body in collector.received for group in ExportTraceServiceRequest.FromString(body).resource_spans]
    return [(attribute(group.resource, "service.name"), span) for group in groups for scope in group.scope_spans for span in scope.spans]


def read_logs(stack: Stack, parts: frozenset[str]) -> dict[str, str]:
    return {part: (stack.home / "logs" / f"{part}.log").read_text(encoding="utf-8") for part in parts}


def attribute(where: Any, name: str) -> Any:
    """The value of an attribute of a span or resource; None where it has none."""
    values = [each.value for each in where.attributes if each.key == name]
    return getattr(values[0], values[0].WhichOneof("value")) if values else None


def test_all_processes_add_to_one_trace(evidence: Evidence) -> None:
    assert evidence.job.status == "succeeded", evidence.job.error
    spans = evidence.of_job()
    names = Counter((process.removeprefix("stillhouse-"), span.name.split(" local/")[0]) for process, span in spans)
    steps = ("validate", "bootstrap", "prepare", "assemble", "train", "evaluate", "package")
    assert set(names) >= {
        ("api", "submit job"),
        ("dispatcher", "send hint"),
        *(("worker", f"work item {step}") for step in steps),
        ("worker", "lm call chat/completions"),
        ("worker", "training"),
        ("lm-agent", "load model"),
        ("lm-host", "chat"),
        ("worker", "publish artifact"),
        ("worker", "end job"),
    }
    assert (names["worker", "training"], names["worker", "publish artifact"], names["lm-agent", "load model"]) == (1, 1, 1)


def test_each_span_is_below_another_and_one_is_the_root(evidence: Evidence) -> None:
    spans = {span.span_id: (process.removeprefix("stillhouse-"), span.name) for process, span in evidence.of_job()}
    above = {(*spans[span.span_id], spans.get(span.parent_span_id)) for _, span in evidence.of_job()}
    assert [name for name, parent in ((name, parent) for _, name, parent in above) if parent is None] == ["submit job"]
    root = ("api", "submit job")
    assert {("dispatcher", "send hint", root), ("worker", "work item train", root), ("lm-agent", "load model", root)} <= above
    assert {
        ("worker", "lm call chat/completions", ("worker", "work item bootstrap")),
        ("worker", "training", ("worker", "work item train")),
        ("worker", "publish artifact", ("worker", "work item package")),
    } <= above
    assert {parent for process, _, parent in above if process == "lm-host"} == {("worker", "lm call chat/completions")}


def test_the_request_is_linked_to_the_job_that_it_made(evidence: Evidence) -> None:
    (request,) = [span for _, span in evidence.spans if attribute(span, "stillhouse.request_id") == evidence.request_id]
    (root,) = [span for _, span in evidence.of_job() if not span.parent_span_id]
    assert (request.name, request.trace_id.hex()) == ("POST /v1/compile_jobs", CALLER)
    assert [link.span_id for link in request.links] == [root.span_id]
    assert [link.span_id for link in root.links] == [request.span_id]


def test_every_line_of_every_process_is_json_with_time_level_and_event(evidence: Evidence) -> None:
    lines = evidence.lines()
    assert {part: {line["process"] for line in of_part} for part, of_part in lines.items()} == {
        part: {"worker" if part.startswith("worker-") else part} for part in evidence.parts
    }
    assert [line for of_part in lines.values() for line in of_part if not {"timestamp", "level", "event"} <= line.keys()] == []


def test_lines_about_the_job_hold_its_id(evidence: Evidence) -> None:
    lines = [line for of_part in evidence.lines().values() for line in of_part]
    work = ("job_submitted", "job_status", "item_claimed", "item_ended", "model_loaded")
    assert {(line["event"], line.get("job_id")) for line in lines if line["event"] in work} == {(event, evidence.job.id) for event in work}
    assert [line["request_id"] for line in lines if line["event"] == "job_submitted"] == [evidence.request_id]
    assert {line["step"] for line in lines if line["event"] == "item_ended"} >= {"bootstrap", "train", "package"}


def test_no_span_and_no_line_holds_a_key_or_a_text_of_the_user(evidence: Evidence) -> None:
    texts = {part: text.encode() for part, text in evidence.logs.items()}
    texts |= {f"spans {number}": body for number, body in enumerate(evidence.sent)}
    assert leaks([LM_KEY, INPUT, INSTRUCTIONS, ANSWER], texts) == {}
