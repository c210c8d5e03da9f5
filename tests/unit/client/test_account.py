"""`client.api_keys` and `stillhouse keys`: what is sent and printed, by both clients."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from stillhouse.cli.main import app
from stillhouse.cli.output import Exit
from tests.unit.client.conftest import Answer, Script, reply, scripted, scripted_async

KEY: dict[str, Any] = {"id": "key-1", "created_at": 1, "label": "ci", "scopes": ["jobs:read"], "hint": "sh_a_…", "status": "active"}
MADE = {**KEY, "token": "sh_a_secret"}
REST = [("POST", "/v1/api_keys"), ("GET", "/v1/api_keys"), ("GET", "/v1/api_keys/key-1"), ("DELETE", "/v1/api_keys/key-1")]


def asked(script: Script) -> list[tuple[str, str]]:
    return [(request.method, request.url.path) for request in script.requests]


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
