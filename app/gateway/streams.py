"""A streamed answer as OpenAI's clients read it: whole events, and an `error` event where the LM host goes away in the middle of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import orjson
import structlog
from asgi_correlation_id import correlation_id

log = structlog.get_logger(__name__)

_ENDS = (b"\n\n", b"\r\n\r\n")


async def whole_events(chunks: AsyncIterator[bytes], connection: str) -> AsyncIterator[bytes]:
    """The LM host's bytes, passed on event by event: half an event before an error would hide the error from the client.

    The status has gone out by then, so what went wrong is told as OpenAI tells it: an event with `error`, and no `[DONE]`.
    """
    kept = b""
    try:
        async for chunk in chunks:
            whole, kept = _cut(kept + chunk)
            if whole:
                yield whole
    except (TimeoutError, aiohttp.ClientError) as fault:
        log.warning("stream_broken", connection=connection, fault=type(fault).__name__)
        yield _error("timeout" if isinstance(fault, TimeoutError) else "unavailable")
        return
    if kept:
        yield kept


def _cut(data: bytes) -> tuple[bytes, bytes]:
    """What ends with the end of an event, and the rest."""
    at = max(data.rfind(end) + len(end) if end in data else 0 for end in _ENDS)
    return data[:at], data[at:]


def _error(code: str) -> bytes:
    said = "did not go on with its answer in time" if code == "timeout" else "was lost in the middle of its answer"
    error = {"message": f"The LM host {said}: this is not the whole of it.", "type": "server_error", "code": code}
    return b"data: " + orjson.dumps({"error": {**error, "param": None, "request_id": correlation_id.get()}}) + b"\n\n"
