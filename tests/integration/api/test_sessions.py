"""A person's browser: an API key given once, a session in its place, and what other pages cannot make that browser do."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from http.cookies import Morsel, SimpleCookie
from itertools import count, product
from typing import Any

import pytest
from starlette.testclient import TestClient

from app import rate
from app.main import create_app
from distill.catalog import browser_sessions, keys
from distill.db import unit_of_work
from tests.integration.api.conftest import ROWS, Tokens, job_body
from tests.integration.core.world import execute

HERE = "http://testserver"
FOREIGN = [
    "http://testserver:81",
    "http://testserver.evil.example",
    "http://evil.example",
    "http://evil.example/?http://testserver",
    "null",
    "",
    "testserver",
    "file://",
]
Browser = Callable[..., TestClient]
_addresses = (f"192.0.2.{number}" for number in count(1))


@contextmanager
def opened(base: str = HERE) -> Iterator[TestClient]:
    """A browser at an address of its own, since sign-ins are counted by it. It keeps cookies."""
    app = create_app()
    with TestClient(app, base_url=base, raise_server_exceptions=False, client=(next(_addresses), 1)) as client:
        yield client


@pytest.fixture
def stranger(tokens: Tokens) -> Iterator[TestClient]:
    """A browser that is not signed in."""
    with opened() as client:
        yield client


@pytest.fixture
def browser(tokens: Tokens) -> Iterator[Browser]:
    """Opens one that is signed in, and sends what its page sends."""
    with ExitStack() as all_of_them:

        def start(token: str = tokens.all, base: str = HERE) -> TestClient:
            client = all_of_them.enter_context(opened(base))
            sign_in(client, token, base)
            return client

        yield start


def sign_in(client: TestClient, token: str, origin: str = HERE) -> Any:
    reply = client.post("/v1/session", headers={"Authorization": f"Bearer {token}", "Origin": origin})
    if reply.is_success:
        client.headers.update({"Origin": origin, "X-CSRF-Token": reply.json()["csrf_token"]})
    return reply


def cookie_of(reply: Any) -> Morsel[str]:
    (morsel,) = SimpleCookie(reply.headers["set-cookie"]).values()
    return morsel


def code(reply: Any) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


class TestCookie:
    def test_is_out_of_reach_of_scripts_and_other_sites(self, stranger: TestClient, tokens: Tokens) -> None:
        cookie = cookie_of(sign_in(stranger, tokens.read))
        assert (cookie.key, cookie["httponly"], cookie["samesite"].lower(), cookie["path"], cookie["domain"]) == (
            "stillhouse",
            True,
            "strict",
            "/",
            "",
        )
        assert not cookie["secure"]
        assert 43_190 <= int(cookie["max-age"]) <= 43_200

    @pytest.mark.parametrize("base", ["https://testserver", HERE], ids=["tls", "tls-ended-by-a-proxy"])
    def test_over_https_is_this_machines_alone(self, browser: Browser, tokens: Tokens, base: str) -> None:
        client = browser(base=base)
        cookie = cookie_of(sign_in(client, tokens.read, "https://testserver"))
        assert cookie.key == "__Host-stillhouse"
        assert (cookie["secure"], cookie["httponly"], cookie["path"], cookie["domain"]) == (True, True, "/", "")

    def test_one_without_the_prefix_opens_nothing_over_https(self, browser: Browser, tokens: Tokens) -> None:
        """Anybody between browser and server can plant it by a page over plain http."""
        client = browser(base="https://testserver")
        assert client.get("/v1/me").status_code == 200
        planted = client.cookies["__Host-stillhouse"]
        client.cookies.clear()
        assert client.get("/v1/me", headers={"Cookie": f"stillhouse={planted}"}).status_code == 401

    def test_only_a_hash_is_kept(self, browser: Browser, tokens: Tokens) -> None:
        secret = browser().cookies["stillhouse"].split("_", 2)[2]
        with unit_of_work() as s:
            (row,) = s.query(browser_sessions.BrowserSession).all()
            assert row.secret_sha256 == sha256(secret.encode()).hexdigest()

    def test_ends_no_later_than_its_key(self, stranger: TestClient, tokens: Tokens) -> None:
        execute("UPDATE api_keys SET expires_at = clock_timestamp() + interval '10 minutes'")
        assert int(cookie_of(sign_in(stranger, tokens.read))["max-age"]) <= 600


class TestSession:
    def test_may_do_what_its_key_may(self, browser: Browser, tokens: Tokens) -> None:
        client = browser(tokens.read)
        assert client.get("/v1/session").json()["scopes"] == ["jobs:read"]
        assert client.get("/v1/compile_jobs").status_code == 200
        assert code(client.post("/v1/compile_jobs", json=job_body())) == (403, "missing_scope")
        assert browser().post("/v1/compile_jobs", json=job_body()).status_code == 201

    def test_reads_the_documentation(self, browser: Browser) -> None:
        client = browser()
        assert "/v1/compile_jobs/{job_id}/cancel" in client.get("/docs", headers={"Accept": "text/html"}).text
        assert client.get("/openapi.json").status_code == 200

    def test_is_no_key_and_a_key_is_no_session(self, browser: Browser, tokens: Tokens) -> None:
        client = browser()
        session = client.cookies["stillhouse"]
        client.cookies.clear()
        assert code(client.get("/v1/me", headers={"Authorization": f"Bearer {session}"})) == (401, "invalid_api_key")
        assert code(client.get("/v1/me", headers={"Cookie": f"stillhouse={tokens.all}"})) == (401, "session_over")

    def test_another_token_opens_nothing(self, browser: Browser) -> None:
        client = browser()
        token = client.cookies["stillhouse"]
        client.cookies.clear()
        for other in (f"{token[:-1]}-", "shs__", f"{token}\x7f", token.upper(), token.rpartition("_")[0]):
            assert code(client.get("/v1/me", headers={"Cookie": f"stillhouse={other}"})) == (401, "session_over"), other

    def test_begins_no_other_session(self, browser: Browser) -> None:
        assert code(browser().post("/v1/session")) == (403, "key_needed")

    def test_without_one_there_is_none(self, api: TestClient) -> None:
        assert code(api.get("/v1/session")) == (404, "session_not_found")
        assert code(api.delete("/v1/session")) == (404, "session_not_found")


class TestEnd:
    def test_signed_out(self, browser: Browser) -> None:
        client = browser()
        kept = client.cookies["stillhouse"]
        gone = client.delete("/v1/session")
        assert gone.status_code == 200
        assert "Max-Age=0" in gone.headers["set-cookie"]
        assert client.get("/v1/me").status_code == 401
        assert code(client.get("/v1/me", headers={"Cookie": f"stillhouse={kept}"})) == (401, "session_over")

    def test_signed_out_over_https(self, browser: Browser) -> None:
        client = browser(base="https://testserver")
        assert client.delete("/v1/session").status_code == 200
        assert not client.cookies

    def test_with_its_key(self, browser: Browser, tokens: Tokens) -> None:
        client = browser()
        with unit_of_work() as s:
            key = keys.verify(s, tokens.all)
            keys.revoke(s, key.project_id, str(key.key_id))
        assert code(client.get("/v1/me")) == (401, "revoked_api_key")

    def test_with_its_keys_time(self, browser: Browser) -> None:
        client = browser()
        execute("UPDATE api_keys SET expires_at = clock_timestamp() - interval '1 second'")
        assert code(client.get("/v1/me")) == (401, "expired_api_key")

    def test_with_its_own_time(self, browser: Browser) -> None:
        client = browser()
        execute("UPDATE browser_sessions SET expires_at = clock_timestamp()")
        assert code(client.get("/v1/me")) == (401, "session_over")
        with unit_of_work() as s:
            browser_sessions.prune(s)
            assert s.query(browser_sessions.BrowserSession).count() == 0

    def test_of_one_leaves_others_open(self, browser: Browser) -> None:
        one, other = browser(), browser()
        one.delete("/v1/session")
        assert other.get("/v1/me").status_code == 200


class TestSignIn:
    def test_makes_a_new_session_and_ends_the_one_before(self, browser: Browser, tokens: Tokens) -> None:
        """Whoever planted or knows the session before gains nothing by it."""
        client = browser(tokens.read)
        planted = client.cookies["stillhouse"]
        first = client.get("/v1/session").json()["id"]
        assert sign_in(client, tokens.all).status_code == 201
        assert client.get("/v1/session").json()["id"] != first
        assert client.cookies["stillhouse"] != planted
        client.cookies.clear()
        assert code(client.get("/v1/me", headers={"Cookie": f"stillhouse={planted}"})) == (401, "session_over")

    def test_takes_no_token_that_it_did_not_make(self, stranger: TestClient, tokens: Tokens) -> None:
        stranger.cookies["stillhouse"] = "shs_chosen_by-somebody-else"
        cookie = cookie_of(sign_in(stranger, tokens.read))
        assert "chosen" not in cookie.value

    def test_tells_nothing_of_keys(self, stranger: TestClient, tokens: Tokens) -> None:
        wrong = [f"{tokens.all[:-1]}x", "sh_000000000000_" + "x" * 43, "sh_", "x"]
        told = {(error["code"], error["message"]) for one in wrong for error in [sign_in(stranger, one).json()["error"]]}
        assert told == {("invalid_api_key", "The API key is unknown.")}
        assert "set-cookie" not in sign_in(stranger, wrong[0]).headers

    def test_is_for_its_own_pages(self, stranger: TestClient, tokens: Tokens) -> None:
        for origin in FOREIGN:
            assert code(sign_in(stranger, tokens.all, origin)) == (403, "foreign_origin"), origin

    def test_too_often_from_one_address_is_told_when_to_come_again(self, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
        """Wrong keys count too."""
        monkeypatch.setattr(rate, "SIGN_INS_PER_MINUTE", 3)
        with opened() as client, opened() as other:
            assert [sign_in(client, key).status_code for key in ("x", "x", tokens.all, tokens.all)] == [401, 401, 201, 429]
            assert client.get("/v1/me").status_code == 200
            assert sign_in(other, tokens.all).status_code == 201

    def test_in_another_project_ends_the_one_before_in_that_ones_own_name(self, browser: Browser, tokens: Tokens) -> None:
        """The audit log of a project tells of no key of another."""
        client = browser(tokens.admin)
        before = client.get("/v1/session").json()
        assert sign_in(client, tokens.other).status_code == 201
        log = client.get("/v1/audit_log", headers={"Authorization": f"Bearer {tokens.admin}"}).json()["data"]
        assert [one["key_id"] for one in log if one["object_id"] == before["id"]] == [before["key_id"]] * 2

    def test_stands_in_the_audit_log(self, browser: Browser, tokens: Tokens) -> None:
        client = browser()
        session = client.get("/v1/session").json()
        client.delete("/v1/session")
        reply = client.get("/v1/audit_log", headers={"Authorization": f"Bearer {tokens.admin}"})
        acts = [(one["action"], one["object_id"], one["key_id"]) for one in reply.json()["data"][:2]]
        assert acts == [(f"session.{what}", session["id"], session["key_id"]) for what in ("ended", "started")]


class TestForgedRequests:
    def test_a_change_needs_the_token_of_this_session(self, browser: Browser) -> None:
        client, other = browser(), browser()
        for token in ("", "x", other.headers["X-CSRF-Token"], client.cookies["stillhouse"]):
            asked = client.post("/v1/datasets", json={"rows": ROWS}, headers={"X-CSRF-Token": token})
            assert code(asked) == (403, "csrf_token_missing"), token
        assert client.get("/v1/datasets").json()["data"] == []
        assert client.post("/v1/datasets", json={"rows": ROWS}).status_code == 201

    def test_whatever_the_method(self, browser: Browser) -> None:
        client = browser()
        del client.headers["X-CSRF-Token"]
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert code(client.request(method, "/v1/compile_jobs/x")) == (403, "csrf_token_missing"), method

    def test_another_pages_request_is_refused_whatever_it_carries(self, browser: Browser) -> None:
        client = browser()
        asked = (("GET", "/v1/me"), ("GET", "/docs"), ("POST", "/v1/datasets"), ("DELETE", "/v1/session"))
        for origin, (method, path) in product(FOREIGN, asked):
            assert code(client.request(method, path, headers={"Origin": origin})) == (403, "foreign_origin"), (method, origin)

    def test_a_change_without_an_origin_is_refused(self, browser: Browser) -> None:
        client = browser()
        del client.headers["Origin"]
        assert client.get("/v1/me").status_code == 200
        assert code(client.post("/v1/datasets", json={"rows": ROWS})) == (403, "foreign_origin")

    def test_a_page_over_plain_http_is_foreign_to_https(self, browser: Browser) -> None:
        client = browser(base="https://testserver")
        assert code(client.get("/v1/me", headers={"Origin": "http://testserver"})) == (403, "foreign_origin")

    def test_a_key_needs_neither(self, browser: Browser, tokens: Tokens) -> None:
        client = browser(tokens.read)
        for name in ("Origin", "X-CSRF-Token"):
            del client.headers[name]
        made = client.post("/v1/datasets", json={"rows": ROWS}, headers={"Authorization": f"Bearer {tokens.all}"})
        assert made.status_code == 201


class TestPages:
    def test_who_is_not_signed_in_is_led_there(self, stranger: TestClient) -> None:
        page = stranger.get("/docs", headers={"Accept": "text/html,*/*;q=0.8"}, follow_redirects=False)
        assert (page.status_code, page.headers["location"]) == (303, "/sign-in")
        assert stranger.get("/docs").status_code == 401
        assert stranger.get("/v1/me", headers={"Accept": "text/html"}).status_code == 401

    def test_a_browser_that_opens_the_bare_address_is_led_to_the_page(self, stranger: TestClient) -> None:
        front = stranger.get("/", headers={"Accept": "text/html"}, follow_redirects=False)
        assert (front.status_code, front.headers["location"]) == (303, "/docs")
        assert stranger.get("/", follow_redirects=False).status_code == 401

    @pytest.mark.parametrize("path", ["/sign-in", "/docs"])
    def test_runs_its_own_script_and_nothing_else(self, browser: Browser, path: str) -> None:
        page = browser().get(path)
        (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
        policy = page.headers["content-security-policy"]
        assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}';" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"<[^>]+\s(on\w+|style|action|src)=", page.text)

    def test_the_password_box_of_browsers_is_not_asked_for(self, stranger: TestClient, tokens: Tokens) -> None:
        """What it remembers has no end, and goes with requests of other pages."""
        assert stranger.get("/docs", auth=("anybody", tokens.read)).status_code == 401
        assert stranger.get("/docs").headers["www-authenticate"] == "Bearer"
