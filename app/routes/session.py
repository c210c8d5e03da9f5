"""/v1/session and the page that signs in: how a person's browser comes to read /docs."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from app import session_cookie
from app.auth import AnyCaller
from app.deps import SessionDep, errors, router
from app.schemas.account import SessionRead
from app.schemas.common import Deleted
from app.sign_in_page import SIGN_IN
from app.views.account import session_read
from distill.catalog import browser_sessions
from distill.catalog.browser_sessions import Opened
from distill.db import Session, now
from distill.errors import NotFound, PermissionDenied, Unauthenticated

pages = APIRouter(tags=["account"])
routes = router("account")


@pages.get("/sign-in", summary="Sign in with a browser", response_class=HTMLResponse)
async def sign_in() -> HTMLResponse:
    """A page without anything of any project; answers without a key."""
    return HTMLResponse(SIGN_IN.html, headers={"content-security-policy": SIGN_IN.policy})


@routes.post("/session", status_code=201, summary="Begin a browser's session")
def start_session(request: Request, response: Response, caller: AnyCaller, session: SessionDep) -> SessionRead:
    """What the page /sign-in asks for. With an API key; the reply sets a cookie that stands for it, for 12 hours, until it is signed out or
    until the key ends. A session that the cookie named before is ended.

    With the cookie, requests other than GET need the session's `csrf_token` in the header `X-CSRF-Token`, and the server's own `Origin`.
    Requests with a key need neither: programs use keys.
    """
    session_cookie.check_origin(request.scope, needed=False)
    if caller.session_id is not None:
        raise PermissionDenied("A session is begun with an API key, not with another session.", code="key_needed")
    if (before := _of_cookie(request, session)) is not None:
        browser_sessions.end(session, before)
    opened, token = browser_sessions.start(session, caller)
    left = int((opened.row.expires_at - now(session)).total_seconds())
    session_cookie.give(response, request.scope, token, max(1, left))
    return session_read(opened, session_cookie.csrf_token(token))


@routes.get("/session", summary="Read this browser's session", responses=errors(404))
def get_session(request: Request, _: AnyCaller, session: SessionDep) -> SessionRead:
    """Of the cookie, with the CSRF token that its other requests need."""
    return session_read(_here(request, session), session_cookie.csrf_token(session_cookie.token_of(request.scope) or ""))


@routes.delete("/session", summary="End this browser's session", responses=errors(404))
def end_session(request: Request, response: Response, _: AnyCaller, session: SessionDep) -> Deleted:
    """Its cookie opens nothing from the next request on."""
    opened = _here(request, session)
    browser_sessions.end(session, opened)
    session_cookie.take_away(response)
    return Deleted(id=opened.row.id, object="session")


def _here(request: Request, session: Session) -> Opened:
    """Raises NotFound."""
    if (opened := _of_cookie(request, session)) is None:
        raise NotFound("This request came without a session's cookie.", code="session_not_found")
    return opened


def _of_cookie(request: Request, session: Session) -> Opened | None:
    try:
        return browser_sessions.verify(session, session_cookie.token_of(request.scope) or "")
    except Unauthenticated:
        return None
