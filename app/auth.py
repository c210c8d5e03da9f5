"""Who asks. The key is checked before anything of the request is read, for every path but two."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import ApiError, error_response, to_api_error
from distill.catalog.keys import Caller, verify
from distill.db import unit_of_work
from distill.errors import PermissionDenied, StillhouseError

OPEN_PATHS = frozenset({"/livez", "/readyz"})
#: For a person's browser, which cannot send a Bearer header: it asks for a name (any) and a password (the key).
#: Never for other paths, or another site's form could act with what the browser remembers.
BROWSER_PATHS = frozenset({"/docs", "/openapi.json"})


class KeyCheck:
    """Lets a request through with its caller, or answers 401 or 429 itself; unknown paths too need a key."""

    def __init__(self, app: ASGIApp, check: Callable[[str], Caller], admit: Callable[[str], None], used: Callable[[str], None]) -> None:
        self._app = app
        self._check = check
        self._admit = admit
        self._used = used

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            caller = await run_in_threadpool(self._let_in, _token(scope))
        except (ApiError, StillhouseError) as error:
            await error_response(_with_challenge(to_api_error(error), scope), scope["path"])(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    def _let_in(self, token: str) -> Caller:
        caller = self._check(token)
        if caller.key_id is not None:
            self._admit(caller.key_id)
            self._used(caller.key_id)
        return caller


def check_key(token: str) -> Caller:
    """The caller of an API key, looked up for every request: one that was revoked is refused at once. Raises Unauthenticated."""
    with unit_of_work("api") as session:
        return verify(session, token)


def _token(scope: Scope) -> str:
    header = next((value for name, value in scope["headers"] if name == b"authorization"), b"").decode("latin-1")
    kind, _, value = header.partition(" ")
    if kind.lower() == "bearer" and value.strip():
        return value.strip()
    if kind.lower() == "basic" and scope["path"] in BROWSER_PATHS:
        return _password(value)
    raise ApiError(401, "missing_api_key", "Send `Authorization: Bearer sh_…`; `stillhouse-server create-key` makes a key.")


def _password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _with_challenge(error: ApiError, scope: Scope) -> ApiError:
    if error.status == 401:
        basic = scope["path"] in BROWSER_PATHS
        error.headers["www-authenticate"] = 'Basic realm="API key as the password", charset="UTF-8"' if basic else "Bearer"
    return error


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


AnyCaller = Annotated[Caller, Depends(_caller)]
Reader = Annotated[Caller, Depends(Needs("jobs:read", "jobs:write"))]
Writer = Annotated[Caller, Depends(Needs("jobs:write"))]
ModelUser = Annotated[Caller, Depends(Needs("models:use"))]
ArtifactUser = Annotated[Caller, Depends(Needs("models:use", "jobs:read", "jobs:write"))]
AliasMover = Annotated[Caller, Depends(Needs("aliases:write"))]
Admin = Annotated[Caller, Depends(Needs("admin"))]
