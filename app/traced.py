"""A span for each request, by its route's template: neither its path nor its query, its headers or its body."""

from __future__ import annotations

from asgi_correlation_id import correlation_id
from starlette.types import ASGIApp, Receive, Scope, Send

from app.metrics import METHODS
from app.middleware import SentStatus
from distill import tracing

UNTRACED = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked every few seconds by what watches the server."""


class Traced:
    """Below the caller's span, where the request has a `traceparent` header. Stands behind the check of the key: whoever has none
    adds no spans to another's trace, and does not choose what is sampled."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not tracing.is_on() or scope["path"] in UNTRACED:
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        headers = _headers(scope) if "caller" in scope.get("state", {}) else {}
        with tracing.span(method, {"http.request.method": method}, kind="server", parent=tracing.from_headers(headers)) as span:
            sent = SentStatus(send)
            try:
                await self._app(scope, receive, sent)
            finally:
                route, status = getattr(scope.get("route"), "path", None), sent.status
                span.rename(f"{method} {route}" if route else method)
                span.set({"http.route": route, "http.response.status_code": status, "stillhouse.request_id": correlation_id.get()})
                if status >= 500:
                    span.fail(str(status))


def _headers(scope: Scope) -> dict[str, str]:
    """What the context of a trace is read from."""
    return {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in (b"traceparent", b"tracestate")}
