"""`client.connections` and `stillhouse connections`: what is sent and printed, by both clients."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from stillhouse.cli.main import app
from stillhouse.cli.output import Exit
from tests.unit.client.conftest import Answer, Script, asked, reply, scripted, scripted_async

KEY = "a-key-of-the-provider"
OWN: dict[str, Any] = {"id": "conn-1", "name": "ours", "owner": "project", "models": ["big-1"], "has_key": True, "key_hint": "ider"}
OPERATORS: dict[str, Any] = {"id": "conn-2", "name": "ours", "owner": "operator", "models": "*"}
FOUND: dict[str, Any] = {"connection": "conn-1", "ok": False, "code": "unauthorized", "message": "it refuses the key", "seconds": 0.25}
PATH = "/v1/connections"
URL = "https://api.example.com/v1"
REST = [
    ("POST", PATH),
    ("GET", PATH),
    ("GET", f"{PATH}/conn-1"),
    ("PATCH", f"{PATH}/conn-1"),
    ("POST", f"{PATH}/conn-1/test"),
    ("DELETE", f"{PATH}/conn-1"),
]


def answers() -> list[Answer]:
    listed = reply({"data": [OPERATORS, OWN], "has_more": False})
    return [reply(OWN, 201), listed, reply(OWN), reply(OWN), reply(FOUND), reply({"id": "conn-1"})]


def sent(script: Script, number: int = 0) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(script.requests[number].content)
    return body


class TestClients:
    def test_the_client(self) -> None:
        client, script = scripted(*answers())
        connections = client.connections
        assert connections.create("ours", URL, models=["big-1"], api_key=KEY).key_hint == "ider"
        assert [row.owner for row in connections.list()] == ["operator", "project"]
        assert connections.retrieve("conn-1").name == "ours"
        connections.update("conn-1", api_key=None)
        assert connections.test("conn-1", model="big-1").code == "unauthorized"
        connections.delete("conn-1")
        assert asked(script) == REST
        assert sent(script) == {"name": "ours", "base_url": URL, "models": ["big-1"], "api_key": KEY}
        assert sent(script, 3) == {"api_key": None}
        assert sent(script, 4) == {"model": "big-1"}
        assert all(script.requests[number].headers["idempotency-key"] for number in (0, 4))

    def test_the_async_client_asks_the_same(self) -> None:
        client, script = scripted_async(*answers())

        async def ask() -> None:
            async with client:
                connections = client.connections
                await connections.create("ours", URL)
                await connections.list()
                await connections.retrieve("conn-1")
                await connections.update("conn-1", max_in_flight=2)
                await connections.test("conn-1")
                await connections.delete("conn-1")

        asyncio.run(ask())
        assert asked(script) == REST


def run(monkeypatch: pytest.MonkeyPatch, some: list[Answer], *arguments: str, typed: str = "") -> tuple[Result, Script]:
    client, script = scripted(*some, max_retries=0)
    monkeypatch.setattr("stillhouse.cli.output.Stillhouse", lambda: client)
    monkeypatch.setenv("COLUMNS", "200")
    return CliRunner().invoke(app, ["connections", *arguments], input=typed), script


class TestCommands:
    def test_a_key_from_a_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PROVIDER_KEY", KEY)
        options = ("--models", "big-1, big-2", "--supports", "tools", "--key-env", "PROVIDER_KEY", "--default-teacher")
        result, script = run(monkeypatch, answers()[:1], "create", "ours", URL, *options)
        assert result.exit_code == Exit.OK, result.output
        assert sent(script) == {
            "name": "ours", "base_url": URL, "models": ["big-1", "big-2"], "supports": ["tools"], "max_in_flight": 16,
            "default_teacher": True, "api_key": KEY,
        }  # fmt: skip
        assert KEY not in result.output

    def test_a_star_alone_is_any_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        result, script = run(monkeypatch, answers()[:1], "create", "ours", URL, "--models", " * ", "--no-key")
        assert (result.exit_code, sent(script)["models"]) == (Exit.OK, "*")

    def test_a_key_from_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        result, script = run(monkeypatch, answers()[:1], "create", "ours", URL, typed=f"{KEY}\n")
        assert (result.exit_code, sent(script)["api_key"]) == (Exit.OK, KEY)
        assert KEY not in result.output

    def test_no_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        result, script = run(monkeypatch, answers()[:1], "create", "ours", URL, "--no-key")
        assert "api_key" not in sent(script)
        for options in (("--key-env", "NOT_THERE"), ()):
            result, script = run(monkeypatch, answers()[:1], "create", "ours", URL, *options)
            assert result.exit_code == Exit.USAGE
            assert "--no-key" in result.output
            assert script.requests == []

    def test_the_command_line_takes_no_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for option in ("--key", "--api-key"):
            assert run(monkeypatch, answers()[:1], "create", "ours", URL, option, KEY)[0].exit_code == Exit.USAGE

    def test_list(self, monkeypatch: pytest.MonkeyPatch) -> None:
        result, _ = run(monkeypatch, answers()[1:2], "list")
        assert all(word in result.output for word in ("ours", "operator", "project", "big-1", "…ider", "none", "conn-1"))

    def test_try_one_by_its_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of two of one name the project's own, as jobs mean it."""
        result, script = run(monkeypatch, [answers()[1], answers()[4]], "test", "ours", "--model", "big-1")
        assert result.exit_code == Exit.FAILED
        assert result.output == "unauthorized  it refuses the key (0.2 s)\n"
        assert (asked(script)[1], sent(script, 1)) == (("POST", f"{PATH}/conn-1/test"), {"model": "big-1"})
        fine = reply({**FOUND, "ok": True, "code": "ok", "message": "it says [/b] :smile:"})
        result, _ = run(monkeypatch, [fine], "test", "conn-1")
        assert (result.exit_code, result.output) == (Exit.OK, "ok  it says [/b] :smile: (0.2 s)\n")

    def test_take_one_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        result, script = run(monkeypatch, [answers()[1], answers()[5]], "delete", "ours")
        assert (result.output, asked(script)[1]) == ("ours is gone\n", ("DELETE", f"{PATH}/conn-1"))
        result, script = run(monkeypatch, answers()[1:2], "delete", "theirs")
        assert result.exit_code == Exit.FAILED
        assert "no connection theirs" in result.output
