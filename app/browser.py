"""ASGI layers against what a browser can be made to do: reach this server under another name, or take a reply for a page of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ApiError, error_response

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

#: Of every reply that does not say something else itself.
HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class SafeHeaders:
    """Adds `HEADERS`, and has no cache keep what is not named by its digest. Nothing is ever allowed to another origin."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if "etag" not in headers:
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, add)


class HostCheck:
    """400 for a name that is not this server's: a page whose own name was moved to this address (DNS rebinding) gets no further."""

    def __init__(self, app: ASGIApp, names: Collection[str] | None) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._names is not None and _name(scope) not in self._names:
            await error_response(_REFUSAL, scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)


_REFUSAL = ApiError(400, "unknown_host", "The header `Host` names another server. The operator lists this one's names in `[server] hosts`.")


def names_of(hosts: Collection[str], bound_to: str) -> frozenset[str] | None:
    """By which names the server may be asked; None is any. `hosts` are those of the settings, this machine's own always among them; without
    any, a server that is bound to a loopback address has that machine's names."""
    if hosts:
        return frozenset(name.lower() for name in hosts) | LOOPBACK
    return LOOPBACK if bound_to in LOOPBACK or f"[{bound_to}]" in LOOPBACK else None


def _name(scope: Scope) -> str:
    """The host without its port, lower case; an IPv6 address keeps its brackets."""
    host = Headers(scope=scope).get("host", "").lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
