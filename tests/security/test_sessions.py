"""What pages of others try with a browser that is signed in; each guard is taken away in turn, and then its own hole is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from app import session_cookie
from distill.catalog import browser_sessions
from tests.integration.api.conftest import Tokens

HERE, NEXT_DOOR = "http://testserver", "http://testserver:81"
#: What a form of any page can send.
FORM, FORM_TYPE = '{"spec": {"type": "exact_match"}}', {"Content-Type": "application/x-www-form-urlencoded"}

GUARDS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a form without the token": lambda patch: patch.setattr(session_cookie, "csrf_token", lambda token: ""),
    "another session's token": lambda patch: patch.setattr(session_cookie, "csrf_token", lambda token: "the same for all"),
    "another port that has the token": lambda patch: patch.setattr(session_cookie, "_is_own", lambda origin, scope: True),
    "a page that says no origin": lambda patch: patch.setattr(session_cookie, "check_origin", lambda scope, needed: None),
    "the session from before the sign-in": lambda patch: patch.setattr(browser_sessions, "end", lambda s, opened: None),
}


def signed_in(client: TestClient, tokens: Tokens) -> dict[str, str]:
    """The headers of the server's own page."""
    reply = client.post("/v1/session", headers={"Authorization": f"Bearer {tokens.all}", "Origin": HERE})
    return {"Origin": HERE, "X-CSRF-Token": reply.json()["csrf_token"]}


def tried(client: TestClient, tokens: Tokens) -> Iterator[tuple[str, int]]:
    """Each attack, and the status of its answer."""
    other = signed_in(client, tokens)
    before = client.cookies["stillhouse"]
    own = signed_in(client, tokens)
    for attack, headers in {
        "a form without the token": {"Origin": HERE},
        "another session's token": other,
        "another port that has the token": {**own, "Origin": NEXT_DOOR},
        "a page that says no origin": {"X-CSRF-Token": own["X-CSRF-Token"]},
    }.items():
        yield attack, client.post("/v1/metrics", content=FORM, headers={**FORM_TYPE, **headers}).status_code
    client.cookies.clear()
    yield "the session from before the sign-in", client.get("/v1/me", headers={"Cookie": f"stillhouse={before}"}).status_code


def let_in(client: TestClient, tokens: Tokens) -> set[str]:
    return {attack for attack, status in tried(client, tokens) if status < 400}


@pytest.mark.record("CVE-2021-32677")
def test_a_page_of_another_site_does_nothing_with_a_session(bare: TestClient, tokens: Tokens) -> None:
    assert let_in(bare, tokens) == set()


def test_each_guard_is_needed(bare: TestClient, tokens: Tokens) -> None:
    for attack, broken in GUARDS.items():
        with pytest.MonkeyPatch.context() as patch:
            broken(patch)
            assert attack in let_in(bare, tokens), attack
