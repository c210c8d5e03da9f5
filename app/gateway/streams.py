"""A streamed answer as OpenAI's clients read it: whole events, and an `error` event where the LM host goes away in the middle of it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import aiohttp
import orjson
import structlog
from asgi_correlation_id import correlation_id

from distill.relay import Chunks

log = structlog.get_logger(__name__)

LONGEST_EVENT = 1024 * 1024
"""Bytes that are kept of an event until its end comes: a host that never ends one would fill the memory."""
_ENDS = (b"\n\n", b"\r\n\r\n")
_AFTER_EVENT = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)")
_SAID = {
    "timeout": "did not go on with its answer in time",
    "unavailable": "was lost in the middle of its answer",
    "too_large": "sent a piece of its answer that is too long",
}


async def whole_events(chunks: Chunks, connection: str) -> AsyncGenerator[bytes]:
    """The LM host's bytes, passed on event by event: half an event before an error would hide the error from the client.

    The status has gone out by then, so what went wrong is told as OpenAI tells it: an event with `error`, and no `[DONE]`.
    """
    kept = bytearray()
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                if whole := _cut(kept, chunk):
                    yield whole
                if len(kept) > LONGEST_EVENT:
                    log.warning("stream_broken", connection=connection, fault="too_large")
                    yield _error("too_large")
                    return
    except (TimeoutError, aiohttp.ClientError) as fault:
        log.warning("stream_broken", connection=connection, fault=type(fault).__name__)
        yield _error("timeout" if isinstance(fault, TimeoutError) else "unavailable")
        return
    if kept:
        yield bytes(kept)


async def counted(events: AsyncGenerator[bytes], count: Callable[[Mapping[str, Any]], None], *, hide: bool) -> AsyncGenerator[bytes]:
    """Whole events, of whose usage `count` gets the last: some hosts send it again and again as it grows. `hide`: the caller has not asked
    for the event that holds nothing else."""
    usage: Mapping[str, Any] = {}
    try:
        async with aclosing(events):
            async for whole in events:
                if b'"usage"' not in whole:
                    yield whole
                    continue
                kept = []
                for event in _AFTER_EVENT.split(whole):
                    found, alone = _usage_of(event)
                    usage = found or usage
                    if not (alone and hide):
                        kept.append(event)
                if said := b"".join(kept):
                    yield said
    finally:
        if usage:
            count(usage)


def _usage_of(event: bytes) -> tuple[dict[str, Any], bool]:
    """The usage that an event tells, and whether it tells nothing else."""
    for line in event.splitlines():
        said = data_of(line)
        if said is not None and isinstance(said.get("usage"), dict):
            return said["usage"], said.get("choices") == []
    return {}, False


async def renamed(events: Chunks, known_as: str, model_id: str) -> AsyncGenerator[bytes]:
    """Whole events with a model's id in place of the name by which its LM host knows it."""
    async with aclosing(events):
        async for whole in events:
            if known_as == model_id or b'"model"' not in whole:
                yield whole
            else:
                yield b"\n".join(_renamed(line, known_as, model_id) for line in whole.split(b"\n"))


def _renamed(line: bytes, known_as: str, model_id: str) -> bytes:
    said = data_of(line)
    if said is None or said.get("model") != known_as:
        return line
    return b"data: " + orjson.dumps({**said, "model": model_id}) + (b"\r" if line.endswith(b"\r") else b"")


def data_of(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line `data: {…}`; None for any other line."""
    if not line.startswith(b"data:"):
        return None
    try:
        said = orjson.loads(line[len(b"data:") :])
    except orjson.JSONDecodeError:
        return None
    return said if isinstance(said, dict) else None


def _cut(kept: bytearray, chunk: bytes) -> bytes:
    """What ends with the end of an event, and is kept no more. Only what is new is looked through, and an end may have begun before it."""
    begin = max(0, len(kept) - max(map(len, _ENDS)) + 1)
    kept.extend(chunk)
    ends = [at + len(end) for end in _ENDS if (at := kept.rfind(end, begin)) >= 0]
    whole = bytes(kept[: max(ends, default=0)])
    del kept[: len(whole)]
    return whole


def _error(code: str) -> bytes:
    message = f"The LM host {_SAID[code]}: this is not the whole of it."
    error = {"message": message, "type": "server_error", "code": code, "param": None, "request_id": correlation_id.get()}
    return b"data: " + orjson.dumps({"error": error}) + b"\n\n"
