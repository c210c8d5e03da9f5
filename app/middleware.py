"""ASGI layers around every route, outermost first: request id, log and figures, last resort, key check, body limit."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from logging import ERROR

import h11
import structlog
from asgi_correlation_id import CorrelationIdMiddleware, correlation_id
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ApiError, error_response, to_api_error

log = structlog.get_logger(__name__)

BODY_GRACE_SECONDS = 30.0
BODY_BYTES_A_SECOND = 1000
"""A body may be waited for so long, and for a second more for each so many bytes that have come."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def with_request_id(app: ASGIApp, new_id: Callable[[], str]) -> ASGIApp:
    """Keep a sane id of the caller, else make one; every reply carries it as ``x-request-id``."""
    return CorrelationIdMiddleware(
        app, header_name="x-request-id", generator=new_id, validator=lambda value: bool(_REQUEST_ID.fullmatch(value))
    )


class LastResort:
    """An exception that nobody expected is a 500 without a traceback (the log has it), or 503 when the database is away.

    A reply that was cut short is cut off, not ended. Where the bytes after a request's head are no HTTP, the server of this application has
    replied 400, logged it, and takes no other reply."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = ended = False

        async def watch(message: Message) -> None:
            nonlocal started, ended
            started = True
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except h11.LocalProtocolError:
            while (await receive())["type"] != "http.disconnect":
                pass
        except Exception as error:
            if scope["type"] != "http":
                raise
            reply = to_api_error(error)
            log.log(ERROR, "request_failed", path=scope["path"], code=reply.code, exc_info=reply.status == 500)
            if not started:
                await error_response(reply, scope["path"])(scope, receive, send)
            elif not ended:
                raise


class BodyLimit:
    """413 for a body over `max_bytes`, declared or not: memory stays flat however the length was announced. 408 for one that stalls."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _declared_length(scope) > self._max_bytes:
            await error_response(self._refusal(), scope["path"])(scope, receive, send)
            return
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        seen, waited, whole = 0, 0.0, False

        async def count() -> Message:
            nonlocal seen, waited, whole
            if whole:
                return await receive()  # that the client leaves
            began = time.monotonic()
            try:
                async with asyncio.timeout(BODY_GRACE_SECONDS + seen / BODY_BYTES_A_SECOND - waited):
                    message = await receive()
            except TimeoutError:
                raise _too_slow() from None
            waited += time.monotonic() - began
            seen, whole = seen + len(message.get("body", b"")), not message.get("more_body", False)
            if seen > self._max_bytes:
                raise self._refusal()
            return message

        return count

    def _refusal(self) -> ApiError:
        limit = self._max_bytes / 1_000_000
        message = f"The body is larger than {limit:g} MB. Upload big data in parts as datasets, or raise limits.max_body_mb."
        return ApiError(413, "body_too_large", message, headers={"connection": "close"})


def _too_slow() -> ApiError:
    may = f"it may take {BODY_GRACE_SECONDS:g} s, and a second more for every {BODY_BYTES_A_SECOND} bytes"
    return ApiError(408, "body_too_slow", f"The body came too slowly: {may}. Send it again.", headers={"connection": "close"})


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


class SentStatus:
    """Passes a reply on, and keeps its status: 500 until one has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 500

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


class RequestLog:
    """Writes a log line for each request, without its query, and counts it by its route's template, never by its path.

    Every line that is logged meanwhile names the request."""

    def __init__(self, app: ASGIApp, observe: Callable[[str, str, int, float], None]) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        structlog.contextvars.clear_contextvars()  # of an earlier request on the same connection
        structlog.contextvars.bind_contextvars(request_id=correlation_id.get())
        began, sent = time.perf_counter(), SentStatus(send)
        try:
            await self._app(scope, receive, sent)
        finally:
            seconds, status = time.perf_counter() - began, sent.status
            self._observe(scope["method"], getattr(scope.get("route"), "path", "unmatched"), status, seconds)
            client = scope["client"][0] if scope.get("client") else None
            facts = {"method": scope["method"], "path": scope["path"], "status": status, "seconds": round(seconds, 4), "client": client}
            log.info("request", **facts)
