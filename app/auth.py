"""Who asks. A key, or the session of a browser, is checked before anything of the request is read, for every path but three."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app import session_cookie
from app.errors import ApiError, error_response, to_api_error
from distill.catalog import browser_sessions
from distill.catalog.keys import Caller, verify
from distill.db import unit_of_work
from distill.errors import PermissionDenied, StillhouseError

SIGN_IN = "/sign-in"
OPEN_PATHS = frozenset({"/livez", "/readyz", SIGN_IN})
_START_SESSION = ("POST", "/v1/session")
#: What a person opens; who has no session is led to the page that makes one.
_FOR_PEOPLE = "/docs"


@dataclass(frozen=True)
class Checks:
    """`key` and `session` raise Unauthenticated, `admit` and `admit_sign_in` LimitExceeded; the last counts by the client's address."""

    key: Callable[[str], Caller]
    session: Callable[[str], Caller]
    admit: Callable[[str], None]
    admit_sign_in: Callable[[str], None]
    used: Callable[[str], None]


class KeyCheck:
    """Lets a request through with its caller, or answers 401, 403 or 429 itself; unknown paths too need a key."""

    def __init__(self, app: ASGIApp, checks: Checks) -> None:
        self._app = app
        self._checks = checks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        if _is_opened(scope, "/"):
            await RedirectResponse(_FOR_PEOPLE, 303)(scope, receive, send)
            return
        try:
            caller = await run_in_threadpool(self._let_in, scope)
        except (ApiError, StillhouseError) as error:
            await _refusal(to_api_error(error), scope)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        structlog.contextvars.bind_contextvars(key_id=caller.key_id, project_id=caller.project_id)
        await self._app(scope, receive, send)

    def _let_in(self, scope: Scope) -> Caller:
        if (scope["method"], scope["path"]) == _START_SESSION:
            self._checks.admit_sign_in(scope["client"][0] if scope["client"] else "")
        caller = self._who(scope)
        if caller.key_id is not None:
            self._checks.admit(caller.key_id)
            self._checks.used(caller.key_id)
        return caller

    def _who(self, scope: Scope) -> Caller:
        """By the header where there is one: no page of another site can send it, while a cookie goes along by itself."""
        if header := Headers(scope=scope).get("authorization"):
            return self._checks.key(_bearer(header))
        if token := session_cookie.token_of(scope):
            session_cookie.check(scope, token)
            return self._checks.session(token)
        raise _missing()


def check_key(token: str) -> Caller:
    """The caller of an API key, looked up for every request: one that was revoked is refused at once. Raises Unauthenticated."""
    with unit_of_work("api") as session:
        return verify(session, token)


def check_session(token: str) -> Caller:
    """The caller of a browser's session, in the same way."""
    with unit_of_work("api") as session:
        return browser_sessions.verify(session, token).caller


def _bearer(header: str) -> str:
    kind, _, value = header.partition(" ")
    if kind.lower() == "bearer" and value.strip():
        return value.strip()
    raise _missing()


def _missing() -> ApiError:
    return ApiError(401, "missing_api_key", "Send `Authorization: Bearer sh_…`; `stillhouse-server create-key` makes a key.")


def _refusal(error: ApiError, scope: Scope) -> Response:
    if error.status != 401:
        return error_response(error, scope["path"])
    if _is_opened(scope, _FOR_PEOPLE):
        return RedirectResponse(SIGN_IN, 303)
    error.headers["www-authenticate"] = "Bearer"
    return error_response(error, scope["path"])


def _is_opened(scope: Scope, path: str) -> bool:
    """By a person's browser."""
    return (scope["method"], scope["path"]) == ("GET", path) and "text/html" in Headers(scope=scope).get("accept", "")


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


class Needs:
    """A dependency: the caller, who must have one of the scopes; the first is the one that is missed."""

    def __init__(self, *enough: str) -> None:
        self._enough = enough

    def __call__(self, request: Request) -> Caller:
        """Raises PermissionDenied when the key has none of the scopes."""
        caller = _caller(request)
        if any(caller.may(scope) for scope in self._enough):
            return caller
        held = ", ".join(sorted(caller.scopes)) or "none"
        raise PermissionDenied(f"This key lacks the scope `{self._enough[0]}`; it has: {held}.")


def _metrics_reader(request: Request) -> Caller:
    """Raises PermissionDenied. An admin of a project like any other does not see the whole server."""
    caller = _caller(request)
    if not caller.reads_metrics:
        raise PermissionDenied("This key lacks the scope `metrics:read`, which keys of the project `default` may have.")
    return caller


def _operator(request: Request) -> Caller:
    """Raises PermissionDenied."""
    caller = _caller(request)
    if not caller.operates:
        message = "This key lacks the scope `operator`, which keys of the project `default` may have."
        raise PermissionDenied(message, code="not_an_operator")
    return caller


AnyCaller = Annotated[Caller, Depends(_caller)]
Reader = Annotated[Caller, Depends(Needs("jobs:read", "jobs:write"))]
Writer = Annotated[Caller, Depends(Needs("jobs:write"))]
#: Of jobs without the content of their rows and traces; see `app.operating` for those of other projects.
JobViewer = Annotated[Caller, Depends(Needs("jobs:read", "jobs:write", "operator"))]
JobActor = Annotated[Caller, Depends(Needs("jobs:write", "operator"))]
AuditReader = Annotated[Caller, Depends(Needs("admin", "operator"))]
KeyRevoker = AuditReader
ModelUser = Annotated[Caller, Depends(Needs("models:use"))]
ArtifactUser = Annotated[Caller, Depends(Needs("models:use", "jobs:read", "jobs:write"))]
AliasMover = Annotated[Caller, Depends(Needs("aliases:write"))]
Admin = Annotated[Caller, Depends(Needs("admin"))]
Operator = Annotated[Caller, Depends(_operator)]
MetricsReader = Annotated[Caller, Depends(_metrics_reader)]
