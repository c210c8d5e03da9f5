"""A streamed chat completion, told as the events of the Responses API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest

from app.gateway.response_events import response_events
from app.gateway.translation import opened
from app.schemas.responses import ResponseCreate

DONE = b"data: [DONE]\n\n"
CHUNK: dict[str, Any] = {"object": "chat.completion.chunk", "model": "tiny"}


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    return b"data: " + orjson.dumps({**CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}) + b"\n\n"


def call(index: int, arguments: str, **first: str) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": first["name"]} if first else {})}
    return {"index": index, "function": function, **({"id": first["id"]} if first else {})}


def told(*sent: bytes) -> list[dict[str, Any]]:
    async def host() -> AsyncGenerator[bytes]:
        for piece in sent:
            yield piece

    async def read() -> list[bytes]:
        response = opened(ResponseCreate(model="tiny", input="a"), "house/tiny")
        return [event async for event in response_events(host(), response)]

    events = [event.split(b"\n") for event in asyncio.run(read())]
    found = [orjson.loads(data.removeprefix(b"data: ")) for _, data, *_ in events]
    assert [name.decode() for name, *_ in events] == [f"event: {event['type']}" for event in found]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


class TestTools:
    def test_text_and_then_calls_each_with_its_arguments(self) -> None:
        usage = b"data: " + orjson.dumps({**CHUNK, "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}}) + b"\n\n"
        events = told(
            chunk(role="assistant", content=""),
            chunk(content="Wait."),
            chunk(tool_calls=[call(0, "", id="call_a", name="look")]),
            chunk(tool_calls=[call(0, '{"a"')]),
            chunk(tool_calls=[call(1, "{}", id="call_b", name="find")]),
            chunk(tool_calls=[call(0, ": 1}")]),
            chunk("tool_calls"),
            usage + DONE,
        )
        assert kinds(events) == [
            *("created", "in_progress"),
            *("output_item.added", "content_part.added", "output_text.delta"),
            *("output_text.done", "content_part.done", "output_item.done"),
            *("output_item.added", "function_call_arguments.delta"),
            *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
            *("function_call_arguments.done", "output_item.done") * 2,
            "completed",
        ]
        response = events[-1]["response"]
        assert response["usage"]["total_tokens"] == 5
        assert response["output"][0]["content"][0]["text"] == "Wait."
        assert [(item["call_id"], item["name"], item["arguments"], item["status"]) for item in response["output"][1:]] == [
            ("call_a", "look", '{"a": 1}', "completed"),
            ("call_b", "find", "{}", "completed"),
        ]
        deltas = [(event["output_index"], event["delta"]) for event in events if event["type"].endswith("arguments.delta")]
        assert deltas == [(1, '{"a"'), (2, "{}"), (1, ": 1}")]
        ids = {item["id"] for item in response["output"]}
        assert {event["item_id"] for event in events if "item_id" in event} == ids


class TestEnds:
    def test_no_text_is_an_empty_one(self) -> None:
        assert told(chunk("stop"), DONE)[-1]["response"]["output"][0]["content"][0]["text"] == ""

    def test_an_answer_that_is_cut_off_is_incomplete(self) -> None:
        last = told(chunk(content="a"), chunk("length"), DONE)[-1]
        assert (last["type"], last["response"]["incomplete_details"]) == ("response.incomplete", {"reason": "max_output_tokens"})
        assert last["response"]["output"][0]["status"] == "incomplete"

    def test_a_refusal_is_none_of_the_text(self) -> None:
        events = told(chunk(content="Well, "), chunk(refusal="No"), chunk(refusal="."), chunk("stop"), DONE)
        assert kinds(events).count("refusal.delta") == 2
        text, refusal = (item["content"][0] for item in events[-1]["response"]["output"])
        assert (text["text"], refusal) == ("Well, ", {"type": "refusal", "refusal": "No."})

    @pytest.mark.parametrize(
        ("sent", "said"),
        [
            ([chunk(content="a")], "was lost in the middle"),
            ([chunk(content="a"), b'data: {"error": {"message": "out of memory"}}\n\n'], "out of memory"),
            ([b'data: {"choices": ["x"]}\n\n', DONE], "cannot be read"),
            ([chunk(content="a"), chunk(content={"b": 1}), DONE], "cannot be read"),
        ],
    )
    def test_what_is_not_whole_has_failed(self, sent: list[bytes], said: str) -> None:
        last = told(*sent)[-1]
        assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
        assert said in last["response"]["error"]["message"]
