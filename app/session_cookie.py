"""The cookie of a browser's session, and when a request may act by it: that a browser sends it does not say who asked."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

from app.errors import ApiError

NAME = "stillhouse"
#: A browser keeps it only as this machine sent it over https, so nobody else can have planted it.
SECURE_NAME = "__Host-stillhouse"
CSRF_HEADER = "x-csrf-token"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_FOREIGN = "A browser's session is for this server's own pages. Others, and programs, send an API key."
_UNPROVEN = "With a session send its `csrf_token` in the header `X-CSRF-Token`; GET /v1/session says it. A key needs none."


def token_of(scope: Scope) -> str | None:
    """The session's token that a request carries."""
    cookies = HTTPConnection(scope).cookies
    return cookies.get(SECURE_NAME) or (None if scope["scheme"] == "https" else cookies.get(NAME))


def check(scope: Scope, token: str) -> None:
    """Raises ApiError (403) for a request that a page of somebody else may have caused: it has a foreign `Origin`, or would change
    something without the server's own `Origin` and the session's CSRF token."""
    changes = scope["method"] not in _READS
    check_origin(scope, needed=changes)
    shown = Headers(scope=scope).get(CSRF_HEADER, "")
    if changes and not hmac.compare_digest(shown.encode(), csrf_token(token).encode()):
        raise ApiError(403, "csrf_token_missing", _UNPROVEN)


def check_origin(scope: Scope, *, needed: bool) -> None:
    """Raises ApiError (403) for an `Origin` that is not this server's own, or for none where it is needed.

    Other ports of this machine are the same site to a browser, so that `SameSite` alone would let their pages in.
    """
    origin = Headers(scope=scope).get("origin")
    if (origin is None and needed) or (origin is not None and not _is_own(origin, scope)):
        raise ApiError(403, "foreign_origin", _FOREIGN)


def csrf_token(token: str) -> str:
    """Made from the session's own token, so that another session's fits no request of this one; it does not tell that token."""
    return hmac.new(token.encode(), b"csrf", "sha256").hexdigest()


def give(response: Response, scope: Scope, token: str, seconds: int) -> None:
    """Have the browser keep the session: for this machine alone, out of reach of scripts, and sent with requests of its own pages alone."""
    secure = _is_https(scope)
    response.set_cookie(SECURE_NAME if secure else NAME, token, max_age=seconds, path="/", secure=secure, httponly=True, samesite="strict")


def take_away(response: Response) -> None:
    """Have the browser forget it, under either name."""
    response.delete_cookie(SECURE_NAME, path="/", secure=True, httponly=True, samesite="strict")
    response.delete_cookie(NAME, path="/", httponly=True, samesite="strict")


def _is_own(origin: str, scope: Scope) -> bool:
    """A proxy may have ended TLS without telling so; a page over plain http is never the server's own where it speaks https."""
    scheme, _, host = origin.lower().partition("://")
    return host == Headers(scope=scope).get("host", "").lower() and scheme in {"https", scope["scheme"]}


def _is_https(scope: Scope) -> bool:
    """The browser knows what it speaks, whatever stands between."""
    return scope["scheme"] == "https" or Headers(scope=scope).get("origin", "").lower().startswith("https://")
