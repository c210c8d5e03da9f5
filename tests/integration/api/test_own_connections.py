"""A project's own connections: made, changed and removed over HTTP, and asked through the gateway."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from app.main import create_app
from app.rate import TESTS_PER_MINUTE
from distill.catalog import connections, keys, own_keys, projects
from distill.catalog.models import Connection
from distill.db import unit_of_work
from distill.errors import CannotOpen
from distill.settings import get_settings
from stack.network import LOOPBACK
from tests.integration.api.conftest import Tokens, job_body
from tests.support.databases import forget_settings
from tests.support.scripted_lm import Answer, Ask, Fail, ScriptedLM

PATH = "/v1/connections"
KEY = "canary-5f3d9b1c7a2e4680-last"
OTHER_KEY = "another-8c1e5a7d3b9f2046-tail"
AskHttp = Callable[..., dict[str, Any]]


def answer(ask: Ask) -> Answer:
    return Fail(400, message=f"you said {KEY}") if "repeat the key" in ask.text else f"I am {ask.model}"


@pytest.fixture
def lm() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=answer, api_key=KEY) as server:
        yield server


@pytest.fixture(autouse=True)
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_EGRESS__HOSTS", json.dumps([LOOPBACK]))
    forget_settings()


def asking(api: TestClient, token: str) -> AskHttp:
    def ask(method: str, path: str, status: int = 200, **more: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
        reply = api.request(method, path, headers=headers, **more)
        assert reply.status_code == status, reply.text
        body: dict[str, Any] = reply.json()
        return body

    return ask


@pytest.fixture
def admin(api: TestClient, tokens: Tokens) -> AskHttp:
    return asking(api, tokens.admin)


@pytest.fixture
def other(api: TestClient, tokens: Tokens) -> AskHttp:
    """An admin of another project."""
    with unit_of_work() as s:
        return asking(api, keys.create(s, projects.get(s, "other").id, "boss", ["admin"])[1])


@pytest.fixture
def teacher(admin: AskHttp, lm: ScriptedLM) -> dict[str, Any]:
    return admin("POST", PATH, 201, json=body_of(lm.url))


def body_of(base_url: str, **changes: Any) -> dict[str, Any]:
    return {"name": "ours", "base_url": base_url, "models": ["big-1"], "api_key": KEY, **changes}


def chat(ask: AskHttp, model: str, status: int = 200, words: str = "hello") -> dict[str, Any]:
    return ask("POST", "/v1/chat/completions", status, json={"model": model, "messages": [{"role": "user", "content": words}]})


def rows() -> list[Connection]:
    with unit_of_work() as s:
        return [row for row in s.query(Connection) if row.project_id]


class TestMaking:
    def test_what_it_reads_like(self, admin: AskHttp, lm: ScriptedLM) -> None:
        prices = {"big-1": {"input": 0.4, "output": 1.6}}
        made = admin("POST", PATH, 201, json=body_of(lm.url, supports=["tools"], prices=prices, max_in_flight=3))
        assert made["id"].startswith("conn-")
        said = {name: made[name] for name in ("name", "kind", "owner", "base_url", "models", "supports", "prices", "max_in_flight")}
        assert said == {
            "name": "ours", "kind": "lm_host", "owner": "project", "base_url": lm.url, "models": ["big-1"], "supports": ["tools"],
            "prices": prices, "max_in_flight": 3,
        }  # fmt: skip
        assert (made["has_key"], made["key_hint"], made["revision"], made["default_teacher"]) == (True, "last", 1, False)
        assert admin("GET", f"{PATH}/{made['id']}") == made
        assert {row["name"]: row["owner"] for row in admin("GET", PATH)["data"]} == {
            "big": "operator", "house": "operator", "ours": "project",
        }  # fmt: skip
        assert "ours/big-1" in [model["id"] for model in admin("GET", "/v1/models")["data"]]

    def test_the_smallest(self, admin: AskHttp) -> None:
        made = admin("POST", PATH, 201, json={"name": "plain", "base_url": "https://api.example.com/v1"})
        assert (made["models"], made["supports"], made["has_key"], made["key_hint"]) == ("*", [], False, None)

    def test_a_short_key_has_no_hint(self, admin: AskHttp) -> None:
        made = admin("POST", PATH, 201, json={"name": "plain", "base_url": "https://api.example.com", "api_key": "only-a-word"})
        assert (made["has_key"], made["key_hint"]) == (True, None)

    def test_the_key_is_sealed_for_its_project_and_row(self, teacher: dict[str, Any]) -> None:
        (row,) = rows()
        assert row.sealed_key is not None
        assert KEY.encode() not in row.sealed_key
        assert own_keys.open_key(str(row.project_id), row.id, row.sealed_key) == KEY
        for project, connection in ((f"{row.project_id}x", row.id), (row.project_id, f"{row.id}x")):
            with pytest.raises(CannotOpen):
                own_keys.open_key(str(project), connection, row.sealed_key)

    def test_again_with_its_idempotency_key(self, admin: AskHttp, lm: ScriptedLM) -> None:
        first, second = (admin("POST", PATH, 201, json=body_of(lm.url), headers={"Idempotency-Key": "one"}) for _ in range(2))
        assert first == second
        assert len(rows()) == 1

    @pytest.mark.parametrize(
        ("changes", "param"),
        [
            ({"base_url": "http://api.example.com/v1"}, "base_url"),
            ({"base_url": "https://10.0.0.1/v1"}, "base_url"),
            ({"base_url": "https://169.254.169.254/latest"}, "base_url"),
            ({"base_url": "https://2130706433/v1"}, "base_url"),
            ({"base_url": "https://[::ffff:127.0.0.1]/v1"}, "base_url"),
            ({"base_url": "https://user:word@example.com/v1"}, "base_url"),
            ({"base_url": "https://example.com\\@127.0.0.1/v1"}, "base_url"),
            ({"base_url": "https://example.com/v1?x=1"}, "base_url"),
            ({"base_url": "file:///etc/passwd"}, "base_url"),
            ({"name": "../up"}, "name"),
            ({"name": "conn-1"}, "name"),
            ({"name": "sh-1"}, "name"),
            ({"supports": ["lora"]}, "supports[0]"),
            ({"models": []}, "models"),
            ({"models": ["big-1", "*"]}, "models"),
            ({"max_in_flight": 0}, "max_in_flight"),
            ({"prices": {"*": {"input": -1, "output": 0}}}, "prices.*.input"),
            ({"api_key": f"{KEY}\r\nhost: evil"}, "api_key"),
            ({"api_key": ""}, "api_key"),
            ({"api_key_env": "DATABASE_URL"}, "api_key_env"),
            ({"headers": {"x": "y"}}, "headers"),
            ({"kind": "trainer"}, "kind"),
        ],
    )
    def test_is_refused_and_says_nothing_of_the_key(self, admin: AskHttp, changes: dict[str, Any], param: str) -> None:
        refused = admin("POST", PATH, 422, json={**body_of("https://api.example.com/v1"), **changes})
        assert refused["error"]["param"].startswith(param)
        assert KEY not in json.dumps(refused)
        assert rows() == []

    def test_names_that_the_project_sees_already(self, admin: AskHttp, other: AskHttp, teacher: dict[str, Any], lm: ScriptedLM) -> None:
        for name, whose in (("big", "the operator has"), ("ours", "the project has")):
            error = admin("POST", PATH, 409, json=body_of(lm.url, name=name))["error"]
            assert (error["code"], error["param"]) == ("connection_exists", "name")
            assert whose in error["message"]
        assert other("POST", PATH, 201, json=body_of(lm.url))["name"] == "ours"

    def test_an_operators_name_that_comes_later_leaves_the_projects_own_first(
        self, admin: AskHttp, other: AskHttp, teacher: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STILLHOUSE_CONNECTIONS__OURS__BASE_URL", "http://127.0.0.1:9/v1")
        forget_settings()
        with unit_of_work() as s:
            connections.sync(s, get_settings())
        assert chat(admin, "ours/big-1")["choices"][0]["message"]["content"] == "I am big-1"
        assert [row["owner"] for row in admin("GET", PATH)["data"] if row["name"] == "ours"] == ["project", "operator"]
        assert [row["owner"] for row in other("GET", PATH)["data"] if row["name"] == "ours"] == ["operator"]

    def test_only_an_admin_writes(self, api: TestClient, tokens: Tokens, teacher: dict[str, Any], lm: ScriptedLM) -> None:
        writer = asking(api, tokens.all)
        writer("POST", PATH, 403, json=body_of(lm.url))
        writer("PATCH", f"{PATH}/{teacher['id']}", 403, json={"max_in_flight": 1})
        writer("DELETE", f"{PATH}/{teacher['id']}", 403)
        assert writer("GET", f"{PATH}/{teacher['id']}") == teacher


class TestWhoseItIs:
    def test_another_projects_is_404(self, other: AskHttp, teacher: dict[str, Any], lm: ScriptedLM) -> None:
        path = f"{PATH}/{teacher['id']}"
        for method, more in (("GET", {}), ("PATCH", {"json": {"max_in_flight": 1}}), ("DELETE", {})):
            assert other(method, path, 404, **more)["error"]["code"] == "connection_not_found"
        assert teacher["id"] not in [row["id"] for row in other("GET", PATH)["data"]]
        for name in ("ours/big-1", "big-1", f"{teacher['id']}/big-1"):
            chat(other, name, 404)
        for name in ("ours", teacher["id"]):
            refused = other("POST", "/v1/compile_jobs", 422, json=job_body(teacher={"lms": {"student": {"connection": name}}}))
            assert refused["error"]["code"] == "connection_not_found"
        assert lm.calls == []

    def test_its_rules_are_its_projects(self, admin: AskHttp, other: AskHttp, teacher: dict[str, Any]) -> None:
        assert admin("PATCH", f"{PATH}/{teacher['id']}", json={"match": ["openai/*"], "models": "*"})["match"] == ["openai/*"]
        assert admin("GET", f"{PATH}/resolve?lm=openai/gpt-9")["connection"] == "ours"
        other("GET", f"{PATH}/resolve?lm=openai/gpt-9", 404)
        assert admin("PATCH", f"{PATH}/{teacher['id']}", 422, json={"match": ["house/*"]})["error"]["param"] == "match[0]"

    def test_the_operators_are_changed_by_nobody(self, admin: AskHttp) -> None:
        house = next(row for row in admin("GET", PATH)["data"] if row["name"] == "house")
        assert (house["owner"], house["base_url"], house["prices"], house["key_hint"]) == ("operator", None, None, None)
        assert admin("GET", f"{PATH}/{house['id']}") == house
        for method, more in (("PATCH", {"json": {"max_in_flight": 1}}), ("DELETE", {})):
            assert admin(method, f"{PATH}/{house['id']}", 403, **more)["error"]["code"] == "operators_connection"

    def test_the_release_before_neither_lists_nor_takes_one(self, teacher: dict[str, Any]) -> None:
        """Its statements look at `disabled_at` alone, and its sync at names."""
        with unit_of_work() as s:
            found = s.execute(text("SELECT name FROM connections WHERE disabled_at IS NULL ORDER BY name")).scalars().all()
            assert found == ["big", "house"]
            assert s.execute(text("SELECT count(*) FROM connections WHERE name = 'ours'")).scalar_one() == 0


class TestChanging:
    def test_another_address_is_another_revision_and_needs_its_key(self, admin: AskHttp, teacher: dict[str, Any], lm: ScriptedLM) -> None:
        path, moved = f"{PATH}/{teacher['id']}", "https://api.example.com/v1"
        refused = admin("PATCH", path, 422, json={"base_url": moved})
        assert (refused["error"]["code"], refused["error"]["param"]) == ("key_needed", "api_key")
        assert admin("GET", path) == teacher
        changed = admin("PATCH", path, json={"base_url": moved, "api_key": OTHER_KEY})
        assert (changed["revision"], changed["base_url"], changed["key_hint"]) == (2, moved, "tail")
        assert admin("PATCH", path, 422, json={"base_url": "https://10.0.0.1/v1", "api_key": KEY})["error"]["code"] == "bad_url"

    def test_what_does_not_answer_otherwise_is_no_revision(self, admin: AskHttp, teacher: dict[str, Any]) -> None:
        changes = {"models": "*", "supports": ["reasoning"], "prices": {"*": {"input": 1, "output": 2}}, "max_in_flight": 2, "api_key": KEY}
        changed = admin("PATCH", f"{PATH}/{teacher['id']}", json=changes)
        assert changed == {**teacher, **{name: value for name, value in changes.items() if name != "api_key"}}

    def test_another_key_is_asked_with_at_once(self, admin: AskHttp, teacher: dict[str, Any], lm: ScriptedLM) -> None:
        assert chat(admin, "ours/big-1")["choices"][0]["message"]["content"] == "I am big-1"
        lm.api_key = OTHER_KEY
        assert chat(admin, "ours/big-1", 503)["error"]["code"] == "connection_unauthorized"
        admin("PATCH", f"{PATH}/{teacher['id']}", json={"api_key": OTHER_KEY})
        chat(admin, "ours/big-1")
        assert admin("PATCH", f"{PATH}/{teacher['id']}", json={"api_key": None})["has_key"] is False
        assert chat(admin, "ours/big-1", 503)["error"]["code"] == "connection_unauthorized"

    def test_a_key_that_was_out_of_quota_and_its_successor(self, admin: AskHttp, teacher: dict[str, Any], lm: ScriptedLM) -> None:
        lm.fault = Fail(429, "insufficient_quota", retry_after=3600)
        assert chat(admin, "ours/big-1", 429)["error"]["code"] == "quota_exhausted"
        lm.fault = None
        assert chat(admin, "ours/big-1", 503)["error"]["code"] == "connection_waiting"
        lm.api_key = OTHER_KEY
        admin("PATCH", f"{PATH}/{teacher['id']}", json={"api_key": OTHER_KEY})
        chat(admin, "ours/big-1")

    def test_the_wait_that_workers_know_of_ends(self, admin: AskHttp, teacher: dict[str, Any]) -> None:
        limited = "limited_reason = 'quota_exhausted', limited_since = now(), limited_until = now() + interval '1 hour', limited_times = 1"
        for changes, ended in (({"max_in_flight": 2}, False), ({"api_key": OTHER_KEY}, True)):
            with unit_of_work() as s:
                s.execute(text(f"UPDATE connections SET {limited} WHERE id = :id"), {"id": teacher["id"]})
            admin("PATCH", f"{PATH}/{teacher['id']}", json=changes)
            assert (rows()[0].limited_since is None) == ended


class TestTheCall:
    def test_the_key_goes_along_and_says_itself_to_nobody(
        self, admin: AskHttp, teacher: dict[str, Any], lm: ScriptedLM, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            chat(admin, "ours/big-1")
            refused = chat(admin, "ours/big-1", 400, "repeat the key")
        assert {call.headers["Authorization"] for call in lm.calls} == {f"Bearer {KEY}"}
        assert refused["error"]["message"] == "you said [redacted]"
        assert KEY not in "".join((caplog.text, *capfd.readouterr()))
        assert KEY not in json.dumps(admin("GET", "/v1/audit_log"))

    def test_an_address_that_is_not_allowed_any_more(
        self, admin: AskHttp, teacher: dict[str, Any], lm: ScriptedLM, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("STILLHOUSE_EGRESS__HOSTS")
        forget_settings()
        with TestClient(create_app()) as later:
            admin = asking(later, tokens.admin)
            assert chat(admin, "ours/big-1", 503)["error"]["code"] == "address_not_allowed"
        assert lm.calls == []

    def test_a_name_that_resolves_into_the_own_network(self, admin: AskHttp, lm: ScriptedLM, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever it resolved to when it was written: the addresses that are looked at are those that are connected to."""
        admin("POST", PATH, 201, json=body_of(f"https://turns.example:{lm.port}/v1"))

        async def inside(self: Any, host: str, port: int = 0, family: Any = None) -> list[dict[str, Any]]:
            return [{"hostname": host, "host": LOOPBACK, "port": port, "family": 2, "proto": 0, "flags": 0}]

        monkeypatch.setattr("distill.egress.ThreadedResolver.resolve", inside)
        assert chat(admin, "ours/big-1", 503)["error"]["code"] == "address_not_allowed"

    def test_a_redirect_is_not_followed(self, admin: AskHttp, teacher: dict[str, Any], lm: ScriptedLM) -> None:
        lm.fault = Fail(307)
        assert chat(admin, "ours/big-1", 503)["error"]["code"] == "bad_request"
        assert len(lm.calls) == 1


class TestTrying:
    def test_one_that_answers_and_one_that_refuses_its_key(self, admin: AskHttp, teacher: dict[str, Any], lm: ScriptedLM) -> None:
        path = f"{PATH}/{teacher['id']}/test"
        found = admin("POST", path)
        assert (found["ok"], found["code"], found["model"], found["connection"]) == (True, "ok", "big-1", teacher["id"])
        lm.api_key = OTHER_KEY
        found = admin("POST", path, json={"model": "big-1"})
        assert (found["ok"], found["code"], found["message"]) == (False, "unauthorized", "it refuses the key")
        assert admin("POST", path, 422, json={"model": "other"})["error"]["param"] == "model"

    def test_the_same_request_again_makes_no_second_call(self, admin: AskHttp, teacher: dict[str, Any], lm: ScriptedLM) -> None:
        headers = {"Idempotency-Key": "once"}
        first, second = (admin("POST", f"{PATH}/{teacher['id']}/test", headers=headers) for _ in range(2))
        assert first == second
        assert len(lm.calls) == 1

    def test_whose_it_is_and_who_may(
        self, api: TestClient, tokens: Tokens, admin: AskHttp, other: AskHttp, teacher: dict[str, Any]
    ) -> None:
        asking(api, tokens.all)("POST", f"{PATH}/{teacher['id']}/test", 403)
        other("POST", f"{PATH}/{teacher['id']}/test", 404)
        house = next(row for row in admin("GET", PATH)["data"] if row["name"] == "house")
        assert admin("POST", f"{PATH}/{house['id']}/test")["code"] == "refused"

    def test_not_too_often(self, admin: AskHttp, other: AskHttp, teacher: dict[str, Any], lm: ScriptedLM) -> None:
        path = f"{PATH}/{teacher['id']}/test"
        for _ in range(TESTS_PER_MINUTE):
            admin("POST", path)
        assert admin("POST", path, 429)["error"]["code"] == "rate_limited"
        theirs = other("POST", PATH, 201, json=body_of(lm.url))
        other("POST", f"{PATH}/{theirs['id']}/test")


class TestRemoving:
    def test_it_is_gone_and_its_key_forgotten(self, admin: AskHttp, teacher: dict[str, Any], lm: ScriptedLM) -> None:
        assert admin("DELETE", f"{PATH}/{teacher['id']}") == {"id": teacher["id"], "object": "connection", "deleted": True}
        for method, more in (("GET", {}), ("PATCH", {"json": {"max_in_flight": 1}}), ("DELETE", {})):
            admin(method, f"{PATH}/{teacher['id']}", 404, **more)
        chat(admin, "ours/big-1", 404)
        assert [(row.sealed_key, row.key_hint) for row in rows()] == [(None, None)]
        assert admin("POST", PATH, 201, json=body_of(lm.url))["id"] != teacher["id"]

    def test_not_while_a_job_needs_it(self, admin: AskHttp, teacher: dict[str, Any]) -> None:
        job = admin("POST", "/v1/compile_jobs", 201, json=job_body(teacher={"lms": {"student": {"connection": "ours"}}}))
        error = admin("DELETE", f"{PATH}/{teacher['id']}", 409)["error"]
        assert error["code"] == "connection_in_use"
        assert job["id"] in error["message"]
        admin("POST", f"/v1/compile_jobs/{job['id']}/cancel")
        admin("DELETE", f"{PATH}/{teacher['id']}")

    def test_not_while_it_is_the_default_teacher(self, admin: AskHttp, other: AskHttp, teacher: dict[str, Any]) -> None:
        admin("PATCH", f"{PATH}/{teacher['id']}", json={"default_teacher": True})
        for ask, name in ((admin, "ours"), (other, "big")):
            job = ask("POST", "/v1/compile_jobs", 201, json=job_body())
            assert job["teacher"][0]["lms"]["student"]["connection"] == name
            ask("POST", f"/v1/compile_jobs/{job['id']}/cancel")
        assert admin("DELETE", f"{PATH}/{teacher['id']}", 409)["error"]["code"] == "connection_in_use"
        admin("PATCH", f"{PATH}/{teacher['id']}", json={"default_teacher": False})
        admin("DELETE", f"{PATH}/{teacher['id']}")

    def test_each_write_is_in_the_audit_log(self, admin: AskHttp, teacher: dict[str, Any]) -> None:
        admin("PATCH", f"{PATH}/{teacher['id']}", json={"api_key": OTHER_KEY, "max_in_flight": 2})
        admin("PATCH", f"{PATH}/{teacher['id']}", json={"max_in_flight": 2})
        admin("DELETE", f"{PATH}/{teacher['id']}")
        found = admin("GET", f"/v1/audit_log?object_id={teacher['id']}")["data"]
        assert [(entry["action"], entry["data"]) for entry in found] == [
            ("connection.deleted", {"name": "ours"}),
            ("connection.changed", {"name": "ours", "changed": ["api_key", "max_in_flight"]}),
            ("connection.created", {"name": "ours", "base_url": teacher["base_url"], "has_key": True}),
        ]
