"""API keys over the interface: made, shown once, rotated, revoked, expired."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from app.main import create_app
from distill.db import unit_of_work
from tests.integration.api.conftest import Tokens
from tests.integration.core.world import execute


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def admin(bare: TestClient, tokens: Tokens) -> TestClient:
    bare.headers.update(bearer(tokens.admin))
    return bare


def made(client: TestClient, **body: Any) -> dict[str, Any]:
    reply = client.post("/v1/api_keys", json={"label": "ci", **body})
    assert reply.status_code == 201, reply.text
    found: dict[str, Any] = reply.json()
    return found


def refusal(client: TestClient, token: str) -> tuple[int, str]:
    reply = client.get("/v1/me", headers=bearer(token))
    return reply.status_code, reply.json().get("error", {}).get("code", "")


class TestMaking:
    def test_the_token_works_and_is_shown_once(self, admin: TestClient) -> None:
        key = made(admin, scopes=["jobs:read"])
        me = admin.get("/v1/me", headers=bearer(key["token"])).json()
        assert (me["key_id"], me["project"], me["scopes"]) == (key["id"], "support", ["jobs:read"])
        assert key["token"].startswith(key["hint"].removesuffix("…"))
        for path in (f"/v1/api_keys/{key['id']}", "/v1/api_keys?limit=100"):
            assert key["token"] not in admin.get(path).text
            assert "token" not in admin.get(path).json()

    def test_its_secret_is_nowhere_in_the_database(self, admin: TestClient) -> None:
        key = admin.post("/v1/api_keys", json={"label": "ci"}, headers={"Idempotency-Key": "a"}).json()
        secret = key["token"].rpartition("_")[2] if key["token"].count("_") == 2 else key["token"].split("_", 2)[2]
        with unit_of_work() as s:
            tables = s.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
            rows = [row for table in tables for row in s.scalars(text(f'SELECT t::text FROM "{table}" t'))]
        assert any(key["id"] in row for row in rows)
        assert not [row for row in rows if secret in row]

    def test_the_same_request_again_makes_no_second_key_and_tells_no_secret(self, admin: TestClient) -> None:
        first = admin.post("/v1/api_keys", json={"label": "ci"}, headers={"Idempotency-Key": "a"})
        second = admin.post("/v1/api_keys", json={"label": "ci"}, headers={"Idempotency-Key": "a"})
        assert second.headers["idempotent-replayed"] == "true"
        assert (second.json()["id"], second.json()["token"]) == (first.json()["id"], None)

    @pytest.mark.parametrize(
        ("body", "param", "code"),
        [
            ({"scopes": ["jobs:raed"], "label": "ci"}, "scopes", "unknown_scope"),
            ({"scopes": [], "label": "ci"}, "scopes", "invalid_value"),
            ({"expires_at": 1, "label": "ci"}, "expires_at", "invalid_value"),
            ({}, "label", "missing_field"),
            ({"replaces": "key-none"}, "replaces", "key_not_found"),
            ({"label": "ci", "overlap_seconds": 1}, "overlap_seconds", "invalid_value"),
            ({"label": "ci", "scope": ["jobs:read"]}, "scope", "unknown_option"),
        ],
    )
    def test_what_is_wrong_is_named(self, admin: TestClient, body: dict[str, Any], param: str, code: str) -> None:
        reply = admin.post("/v1/api_keys", json=body)
        assert reply.status_code == 422
        assert (reply.json()["error"]["param"], reply.json()["error"]["code"]) == (param, code)

    def test_only_an_admin_may(self, api: TestClient) -> None:
        assert api.post("/v1/api_keys", json={"label": "ci"}).status_code == 403
        assert api.get("/v1/api_keys").status_code == 403


class TestEnd:
    def test_a_revoked_key_is_refused_at_once(self, admin: TestClient) -> None:
        key = made(admin)
        assert refusal(admin, key["token"])[0] == 200
        assert admin.delete(f"/v1/api_keys/{key['id']}").json()["deleted"] is True
        assert refusal(admin, key["token"]) == (401, "revoked_api_key")
        assert admin.get(f"/v1/api_keys/{key['id']}").json()["status"] == "revoked"
        assert admin.delete(f"/v1/api_keys/{key['id']}").status_code == 200

    def test_an_expired_key_is_refused_at_once(self, admin: TestClient) -> None:
        key = made(admin, expires_at=int(time.time()) + 3600)
        assert refusal(admin, key["token"])[0] == 200
        execute(f"UPDATE api_keys SET expires_at = clock_timestamp() WHERE id = '{key['id']}'")
        assert refusal(admin, key["token"]) == (401, "expired_api_key")
        assert admin.get(f"/v1/api_keys/{key['id']}").json()["status"] == "expired"

    def test_who_lacks_the_secret_does_not_hear_how_a_key_stands(self, admin: TestClient) -> None:
        key = made(admin)
        admin.delete(f"/v1/api_keys/{key['id']}")
        assert refusal(admin, key["hint"].removesuffix("…") + "guess") == (401, "invalid_api_key")

    def test_another_projects_keys_are_not_found(self, admin: TestClient, tokens: Tokens) -> None:
        own = {key["id"] for key in admin.get("/v1/api_keys?limit=100").json()["data"]}
        other = admin.get("/v1/me", headers=bearer(tokens.other)).json()["key_id"]
        assert other not in own
        assert admin.get(f"/v1/api_keys/{other}").status_code == 404
        assert admin.delete(f"/v1/api_keys/{other}").status_code == 404
        assert admin.post("/v1/api_keys", json={"replaces": other}).status_code == 422
        assert refusal(admin, tokens.other)[0] == 200


class TestRotation:
    def test_both_work_during_the_overlap(self, admin: TestClient) -> None:
        old = made(admin, scopes=["jobs:read"])
        new = admin.post("/v1/api_keys", json={"replaces": old["id"]}).json()
        assert (new["label"], new["scopes"]) == ("ci", ["jobs:read"])
        assert refusal(admin, old["token"])[0] == refusal(admin, new["token"])[0] == 200
        ends = admin.get(f"/v1/api_keys/{old['id']}").json()["expires_at"]
        assert ends == pytest.approx(time.time() + 86_400, abs=60)

    def test_without_an_overlap_the_old_one_ends_at_once(self, admin: TestClient) -> None:
        old = made(admin)
        assert admin.post("/v1/api_keys", json={"replaces": old["id"], "overlap_seconds": 0}).status_code == 201
        assert refusal(admin, old["token"]) == (401, "expired_api_key")
        again = admin.post("/v1/api_keys", json={"replaces": old["id"]})
        assert (again.status_code, again.json()["error"]["code"]) == (409, "key_over")

    def test_an_overlap_gives_no_more_time_than_there_was(self, admin: TestClient) -> None:
        soon = int(time.time()) + 600
        old = made(admin, expires_at=soon)
        admin.post("/v1/api_keys", json={"replaces": old["id"]})
        assert admin.get(f"/v1/api_keys/{old['id']}").json()["expires_at"] == soon


class TestLastUse:
    @pytest.fixture
    def used_at(self, tokens: Tokens) -> Callable[[], Any]:
        def read() -> Any:
            with unit_of_work() as s:
                query = text("SELECT last_used_at FROM api_keys WHERE token_id = :id")
                return s.scalar(query, {"id": tokens.read.split("_")[1]})

        return read

    def _use(self, tokens: Tokens) -> None:
        """A server that answers one request and stops."""
        with TestClient(create_app()) as client:
            assert client.get("/v1/me", headers=bearer(tokens.read)).status_code == 200

    def test_it_is_written_at_most_once_a_minute(self, tokens: Tokens, used_at: Any) -> None:
        assert used_at() is None
        self._use(tokens)
        first = used_at()
        assert first is not None
        self._use(tokens)
        assert used_at() == first
        execute("UPDATE api_keys SET last_used_at = last_used_at - interval '61 seconds'")
        self._use(tokens)
        assert used_at() >= first

    def test_no_request_waits_for_it(self, bare: TestClient, tokens: Tokens) -> None:
        waits = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
        with unit_of_work() as s, ThreadPoolExecutor(1) as pool:
            s.execute(text("SELECT 1 FROM api_keys FOR UPDATE"))
            asked = pool.submit(bare.get, "/v1/me", headers=bearer(tokens.read))
            while not asked.done():
                with unit_of_work() as looking:
                    assert looking.scalar(waits) == 0
            assert asked.result().status_code == 200
