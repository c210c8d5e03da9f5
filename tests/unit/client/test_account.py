"""Keys, projects, usage and the audit log: what clients and command line send and print."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from stillhouse.cli.main import app
from stillhouse.cli.output import Exit
from tests.unit.client.conftest import Answer, asked, reply, scripted, scripted_async

KEY: dict[str, Any] = {"id": "key-1", "created_at": 1, "label": "ci", "scopes": ["jobs:read"], "hint": "sh_a_…", "status": "active"}
MADE = {**KEY, "token": "sh_a_secret"}
REST = [("POST", "/v1/api_keys"), ("GET", "/v1/api_keys"), ("GET", "/v1/api_keys/key-1"), ("DELETE", "/v1/api_keys/key-1")]


class TestKeys:
    def test_the_client(self) -> None:
        client, script = scripted(reply(MADE, 201), reply({"data": [KEY], "has_more": False}), reply(KEY), reply({"id": "key-1"}))
        assert client.api_keys.create(label="ci", scopes=["jobs:read"]).token == "sh_a_secret"
        assert [key.status for key in client.api_keys.list()] == ["active"]
        assert client.api_keys.retrieve("key-1").label == "ci"
        client.api_keys.delete("key-1")
        assert asked(script) == REST
        assert json.loads(script.requests[0].content) == {"label": "ci", "scopes": ["jobs:read"]}
        assert script.requests[0].headers["idempotency-key"]

    def test_the_async_client_asks_the_same(self) -> None:
        client, script = scripted_async(reply(MADE, 201), reply({"data": [KEY], "has_more": False}), reply(KEY), reply({"id": "key-1"}))

        async def ask() -> str | None:
            async with client:
                made = await client.api_keys.create(replaces="key-0", overlap_seconds=0)
                await client.api_keys.list()
                await client.api_keys.retrieve("key-1")
                await client.api_keys.delete("key-1")
                return made.token

        assert asyncio.run(ask()) == "sh_a_secret"
        assert asked(script) == REST
        assert json.loads(script.requests[0].content) == {"replaces": "key-0", "overlap_seconds": 0}


PROJECT = {"id": "proj-1", "created_at": 1, "name": "vision", "share": 1.0}
ENTRY = {"id": "audit-1", "created_at": 1, "action": "alias.moved", "object_id": "router@prod", "key_id": "key-1", "data": {"to": "art-2"}}


class TestProjects:
    def test_the_client(self) -> None:
        client, script = scripted(reply(PROJECT, 201), reply({"data": [PROJECT], "has_more": False}), reply(PROJECT))
        assert client.projects.create("vision", metadata={"team": "v"}).id == "proj-1"
        assert [project.name for project in client.projects.list()] == ["vision"]
        assert client.projects.retrieve("vision").share == 1.0
        assert asked(script) == [("POST", "/v1/projects"), ("GET", "/v1/projects"), ("GET", "/v1/projects/vision")]
        assert json.loads(script.requests[0].content) == {"name": "vision", "metadata": {"team": "v"}}

    def test_the_async_client_asks_the_same(self) -> None:
        client, script = scripted_async(reply(PROJECT, 201), reply({"data": [PROJECT], "has_more": False}), reply(PROJECT))

        async def ask() -> None:
            async with client:
                await client.projects.create("vision")
                await client.projects.list(limit=5)
                await client.projects.retrieve("vision")

        asyncio.run(ask())
        assert asked(script) == [("POST", "/v1/projects"), ("GET", "/v1/projects"), ("GET", "/v1/projects/vision")]
        assert json.loads(script.requests[0].content) == {"name": "vision"}


SEEN = {"id": "proj-1", "object": "project", "deleted": False, "removes": {"jobs": 1200, "files": 0}, "notes": ["it has aliases"]}
GONE = {"id": "proj-1", "object": "project", "deleted": True}


class TestDeleting:
    def test_both_clients_say_whether_they_only_look(self) -> None:
        client, script = scripted(reply(SEEN), reply(GONE), reply(GONE))
        assert client.projects.delete("vision", dry_run=True).removes == {"jobs": 1200, "files": 0}
        assert client.compile_jobs.delete("cjob-1", cascade="artifacts").deleted is True
        client.datasets.delete("support@v1")
        assert asked(script) == [("DELETE", f"/v1/{path}") for path in ("projects/vision", "compile_jobs/cjob-1", "datasets/support@v1")]
        assert [dict(request.url.params) for request in script.requests] == [{"dry_run": "true"}, {"cascade": "artifacts"}, {}]
        waiting, asynchronous = scripted_async(reply(GONE), reply(SEEN), reply(SEEN))

        async def ask() -> None:
            async with waiting:
                await waiting.projects.delete("vision")
                await waiting.compile_jobs.delete("cjob-1", dry_run=True)
                await waiting.datasets.delete("ds-1", dry_run=True, cascade="artifacts")

        asyncio.run(ask())
        sent = [{}, {"dry_run": "true"}, {"dry_run": "true", "cascade": "artifacts"}]
        assert [dict(request.url.params) for request in asynchronous.requests] == sent

    def test_the_latest_version_is_looked_up_once_and_deleted_by_its_id(self) -> None:
        dataset = {
            "id": "ds-2",
            "object": "dataset",
            "name": "support",
            "version": 2,
            "rows": 1,
            "size_bytes": 1,
            "digest": "d",
            "created_at": 1,
        }
        client, script = scripted(reply(dataset), reply(GONE))
        client.datasets.delete("support@latest")
        assert asked(script) == [("GET", "/v1/datasets/support@latest"), ("DELETE", "/v1/datasets/ds-2")]

    def test_the_command_asks_before_it_deletes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shell = Shell(monkeypatch, reply(SEEN), reply(GONE))
        result = CliRunner().invoke(app, ["projects", "delete", "vision"], input="y\n")
        assert result.stdout.splitlines()[-1] == "proj-1  deleted"
        assert all(word in result.stderr for word in ("1,200  jobs", "note: it has aliases", "cannot be undone"))
        assert "files" not in result.stderr
        assert [dict(request.url.params) for request in shell.script.requests] == [{"dry_run": "true"}, {}]


class TestAuditLog:
    def test_both_clients_narrow_and_page(self) -> None:
        pages = (reply({"data": [ENTRY], "has_more": True, "last_id": "audit-1"}), reply({"data": [], "has_more": False}))
        client, script = scripted(*pages)
        assert [entry.data for entry in client.audit_log.list(action="alias.moved", key_id="key-1")] == [{"to": "art-2"}]
        assert dict(script.requests[1].url.params) == {"action": "alias.moved", "key_id": "key-1", "after": "audit-1"}
        waiting, asynchronous = scripted_async(reply({"data": [ENTRY], "has_more": False}))

        async def ask() -> str:
            async with waiting:
                return (await waiting.audit_log.list(object_id="router@prod")).data[0].action

        assert asyncio.run(ask()) == "alias.moved"
        assert dict(asynchronous.requests[0].url.params) == {"object_id": "router@prod"}


USED = {"project": "support", "month": "2026-11", "resets_at": 1, "teacher_usd": 2.5, "quotas": {"month_teacher_usd": 1000.0}}


class TestUsage:
    def test_both_clients_ask_for_a_month(self) -> None:
        client, script = scripted(reply(USED))
        assert client.usage.retrieve().teacher_usd == 2.5
        client.usage.retrieve("2026-10")
        assert [dict(request.url.params) for request in script.requests] == [{}, {"month": "2026-10"}]
        waiting, asynchronous = scripted_async(reply(USED))

        async def ask() -> str:
            async with waiting:
                return (await waiting.usage.retrieve("2026-11")).month

        assert asyncio.run(ask()) == "2026-11"
        assert dict(asynchronous.requests[0].url.params) == {"month": "2026-11"}


class Shell:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Answer) -> None:
        client, self.script = scripted(*answers, max_retries=0)
        monkeypatch.setattr("stillhouse.cli.output.Stillhouse", lambda: client)
        monkeypatch.setenv("COLUMNS", "200")

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))


class TestCommands:
    def test_a_token_alone_is_on_standard_output(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shell = Shell(monkeypatch, reply(MADE, 201))
        result = shell.run("keys", "create", "--label", "ci", "--scopes", "jobs:read, models:use", "--days", "90")
        assert result.stdout == "sh_a_secret\n"
        sent = json.loads(shell.script.requests[0].content)
        assert sent.pop("expires_at") == pytest.approx(time.time() + 90 * 86_400, abs=60)
        assert sent == {"label": "ci", "scopes": ["jobs:read", "models:use"]}

    def test_a_rotation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shell = Shell(monkeypatch, reply(MADE, 201))
        assert json.loads(shell.run("keys", "create", "--replaces", "key-0", "--overlap-hours", "1.5", "--json").stdout) == {
            **MADE, "expires_at": None, "revoked_at": None, "last_used_at": None,
        }  # fmt: skip
        assert json.loads(shell.script.requests[0].content) == {"replaces": "key-0", "overlap_seconds": 5400}

    def test_a_token_that_was_lost_is_a_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        result = Shell(monkeypatch, reply({**MADE, "token": None}, 201)).run("keys", "create", "--label", "ci")
        assert result.exit_code == Exit.FAILED
        assert "key-1 was made" in result.output

    def test_list_and_revoke(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shell = Shell(monkeypatch, reply({"data": [KEY], "has_more": False}))
        listed = shell.run("keys", "list").output
        assert all(word in listed for word in ("key-1", "ci", "active", "jobs:read"))
        shell = Shell(monkeypatch, reply({"id": "key-1"}))
        assert shell.run("keys", "revoke", "key-1").output == "key-1 is revoked\n"
        assert asked(shell.script) == [REST[3]]

    def test_projects(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shell = Shell(monkeypatch, reply(PROJECT, 201))
        assert shell.run("projects", "create", "vision").output == "proj-1  vision\n"
        shell = Shell(monkeypatch, reply({"data": [PROJECT], "has_more": False}))
        assert "vision" in shell.run("projects", "list").output
        shell = Shell(monkeypatch, reply(MADE, 201))
        shell.run("keys", "create", "--label", "first", "--project", "vision")
        assert json.loads(shell.script.requests[0].content) == {"label": "first", "project": "vision"}

    def test_the_audit_log(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shell = Shell(monkeypatch, reply({"data": [ENTRY], "has_more": False}))
        printed = shell.run("audit-log", "--action", "alias.moved", "--object", "router@prod", "--key", "key-1").output
        assert all(word in printed for word in ("alias.moved", "router@prod", "key-1", "art-2"))
        sent = {"action": "alias.moved", "object_id": "router@prod", "key_id": "key-1", "limit": "20"}
        assert dict(shell.script.requests[0].url.params) == sent

    def test_usage_beside_the_quotas(self, monkeypatch: pytest.MonkeyPatch) -> None:
        printed = Shell(monkeypatch, reply({**USED, "unknown": ["price of big/x"]})).run("usage", "--month", "2026-11").output
        assert all(word in printed for word in ("support 2026-11", "2.50", "1,000.00", "price of big/x"))
