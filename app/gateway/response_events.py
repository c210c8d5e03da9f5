"""A streamed chat completion as the events of the Responses API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

import orjson

from app.gateway.streams import data_of
from app.gateway.translation import Json, call_item, ended, message_item, part_of
from distill.relay import Chunks

_DONE = b"data: [DONE]"
_NONE = -1
_LOST = "The LM host was lost in the middle of its answer: this is not the whole of it."
_UNREADABLE = "The LM host sent a piece of its answer that cannot be read: this is not the whole of it."


async def response_events(events: Chunks, response: Json) -> AsyncIterator[bytes]:
    """What the LM host streams, event by event, told as OpenAI's clients read a response."""
    told = _Told(response)
    for event in told.begin():
        yield event
    async with aclosing(events):
        async for whole in events:
            for line in whole.splitlines():
                for event in told.take(line):
                    yield event
    for event in told.end():
        yield event


class _Told:
    """What has been told of a response so far."""

    def __init__(self, response: Json) -> None:
        self._response = response
        self._number = 0
        self._message = _NONE
        self._calls: dict[int, int] = {}
        self._open: list[int] = []
        self._finish: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self._is_whole = False
        self._error: str | None = None

    def begin(self) -> Iterator[bytes]:
        yield self._event("response.created", response=self._response)
        yield self._event("response.in_progress", response=self._response)

    def take(self, line: bytes) -> Iterator[bytes]:
        """One line of the LM host's stream."""
        if line.startswith(_DONE):
            self._is_whole = True
        elif (chunk := data_of(line)) is not None:
            try:
                yield from self._chunk(chunk)
            except (AttributeError, LookupError, TypeError, ValueError):
                self._error = _UNREADABLE

    def _chunk(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        if error := chunk.get("error"):
            self._error = str(error.get("message") or _LOST)
        self._usage = chunk.get("usage") or self._usage
        for choice in (chunk.get("choices") or ())[:1]:
            self._finish = choice.get("finish_reason") or self._finish
            yield from self._delta(choice.get("delta") or {})

    def _delta(self, delta: Mapping[str, Any]) -> Iterator[bytes]:
        if delta.get("content"):
            yield from self._say("output_text", delta["content"])
        if delta.get("refusal"):
            yield from self._say("refusal", delta["refusal"])
        for call in delta.get("tool_calls") or ():
            yield from self._call(call)

    def end(self) -> Iterator[bytes]:
        is_whole = (self._is_whole or self._finish is not None) and self._error is None
        status = "completed" if is_whole and self._finish != "length" else "incomplete"
        if is_whole and not self._output:
            yield from self._open_message("output_text")
        for at in list(self._open):
            yield from self._close(at, status)
        if not is_whole:
            failed = {"status": "failed", "error": {"code": "server_error", "message": self._error or _LOST}}
            yield self._event("response.failed", response={**self._response, **failed})
            return
        whole = {**self._response, **ended(self._finish, self._usage)}
        yield self._event(f"response.{whole['status']}", response=whole)

    # ------------------------------------------------------------------ items

    @property
    def _output(self) -> list[Json]:
        output: list[Json] = self._response["output"]
        return output

    def _say(self, kind: str, text: str) -> Iterator[bytes]:
        if self._message == _NONE or self._output[self._message]["content"][0]["type"] != kind:
            yield from self._open_message(kind)
        at = self._message
        item = self._output[at]
        item["content"][0][_field(kind)] += text
        yield self._event(f"response.{kind}.delta", **_place(item, at), content_index=0, delta=text, **_logprobs(kind))

    def _open_message(self, kind: str) -> Iterator[bytes]:
        yield from self._close_message()
        item = message_item(kind, "", "in_progress")
        yield self._add({**item, "content": []})
        self._message = len(self._output) - 1
        self._output[self._message] = item
        yield self._event("response.content_part.added", **_place(item, self._message), content_index=0, part=part_of(kind, ""))

    def _close_message(self) -> Iterator[bytes]:
        if self._message != _NONE:
            yield from self._close(self._message, "completed")
            self._message = _NONE

    def _call(self, call: Mapping[str, Any]) -> Iterator[bytes]:
        index, function = call.get("index") or 0, call.get("function") or {}
        if index not in self._calls:
            yield from self._close_message()
            yield self._add(call_item({**call, "function": {"name": function.get("name")}}, "in_progress"))
            self._calls[index] = len(self._output) - 1
        if said := function.get("arguments"):
            at = self._calls[index]
            self._output[at]["arguments"] += said
            yield self._event("response.function_call_arguments.delta", **_place(self._output[at], at), delta=said)

    def _add(self, item: Json) -> bytes:
        self._output.append(item)
        self._open.append(len(self._output) - 1)
        return self._event("response.output_item.added", output_index=len(self._output) - 1, item=item)

    def _close(self, at: int, status: str) -> Iterator[bytes]:
        item = self._output[at]
        item["status"] = status
        self._open.remove(at)
        if item["type"] == "message":
            part, kind = item["content"][0], item["content"][0]["type"]
            said = {_field(kind): part[_field(kind)], **_logprobs(kind)}
            yield self._event(f"response.{kind}.done", **_place(item, at), content_index=0, **said)
            yield self._event("response.content_part.done", **_place(item, at), content_index=0, part=part)
        else:
            said = {"name": item["name"], "arguments": item["arguments"]}
            yield self._event("response.function_call_arguments.done", **_place(item, at), **said)
        yield self._event("response.output_item.done", output_index=at, item=item)

    def _event(self, kind: str, **told: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, "sequence_number": number, **told}))


def _field(kind: str) -> str:
    return "refusal" if kind == "refusal" else "text"


def _logprobs(kind: str) -> Json:
    return {} if kind == "refusal" else {"logprobs": []}


def _place(item: Json, at: int) -> Json:
    return {"item_id": item["id"], "output_index": at}
