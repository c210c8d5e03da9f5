"""`client.webhook_endpoints` and `stillhouse webhooks`: what is sent and printed, by both clients."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from stillhouse.cli.main import app
from stillhouse.cli.output import Exit
from tests.unit.client.conftest import Answer, Script, asked, reply, scripted, scripted_async

ENDPOINT: dict[str, Any] = {"id": "whk-1", "created_at": 1, "url": "https://example.com/hook", "events": ["alias.moved"]}
MADE = {**ENDPOINT, "secret": "whsec_x"}
SENT: dict[str, Any] = {
    "id": "evt-1",
    "created_at": 1,
    "type": "alias.moved",
    "status": "failed",
    "attempts": 10,
    "last_error": "it answered 503",
}
PATH = "/v1/webhook_endpoints"
REST = [
    ("POST", PATH),
    ("GET", PATH),
    ("GET", f"{PATH}/whk-1"),
    ("GET", f"{PATH}/whk-1/deliveries"),
    ("POST", f"{PATH}/whk-1/deliveries/evt-1/redeliver"),
    ("DELETE", f"{PATH}/whk-1"),
]


def answers() -> list[Answer]:
    return [
        reply(MADE, 201),
        reply({"data": [ENDPOINT], "has_more": False}),
        reply(ENDPOINT),
        reply({"data": [SENT], "has_more": False}),
        reply({**SENT, "status": "pending"}),
        reply({"id": "whk-1"}),
    ]


class TestClients:
    def test_the_client(self) -> None:
        client, script = scripted(*answers())
        hooks = client.webhook_endpoints
        assert hooks.create(ENDPOINT["url"], ["alias.moved"]).secret == "whsec_x"
        assert [endpoint.id for endpoint in hooks.list()] == ["whk-1"]
        assert hooks.retrieve("whk-1").disabled_at is None
        assert [sent.last_error for sent in hooks.deliveries("whk-1")] == ["it answered 503"]
        assert hooks.redeliver("whk-1", "evt-1").status == "pending"
        hooks.delete("whk-1")
        assert asked(script) == REST
        assert json.loads(script.requests[0].content) == {"url": ENDPOINT["url"], "events": ["alias.moved"]}
        assert script.requests[0].headers["idempotency-key"]

    def test_the_async_client_asks_the_same(self) -> None:
        client, script = scripted_async(*answers())

        async def ask() -> None:
            async with client:
                hooks = client.webhook_endpoints
                await hooks.create(ENDPOINT["url"], ["alias.moved"])
                await hooks.list()
                await hooks.retrieve("whk-1")
                await hooks.deliveries("whk-1")
                await hooks.redeliver("whk-1", "evt-1")
                await hooks.delete("whk-1")

        asyncio.run(ask())
        assert asked(script) == REST


def run(monkeypatch: pytest.MonkeyPatch, answer: Answer, *arguments: str) -> tuple[Result, Script]:
    client, script = scripted(answer, max_retries=0)
    monkeypatch.setattr("stillhouse.cli.output.Stillhouse", lambda: client)
    monkeypatch.setenv("COLUMNS", "200")
    return CliRunner().invoke(app, ["webhooks", *arguments]), script


class TestCommands:
    def test_a_secret_alone_is_on_standard_output(self, monkeypatch: pytest.MonkeyPatch) -> None:
        result, script = run(monkeypatch, answers()[0], "create", ENDPOINT["url"], "--events", "alias.moved, compile_job.failed")
        assert result.stdout == "whsec_x\n"
        assert json.loads(script.requests[0].content)["events"] == ["alias.moved", "compile_job.failed"]

    def test_a_secret_that_was_lost_is_a_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        result, _ = run(monkeypatch, reply({**MADE, "secret": None}, 201), "create", ENDPOINT["url"], "--events", "alias.moved")
        assert result.exit_code == Exit.FAILED
        assert "delete it and make another one" in result.output

    def test_the_log_of_deliveries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        result, _ = run(monkeypatch, answers()[3], "deliveries", "whk-1")
        assert all(word in result.output for word in ("evt-1", "alias.moved", "failed", "10", "it answered 503"))

    def test_send_again_and_take_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert run(monkeypatch, answers()[4], "redeliver", "whk-1", "evt-1")[0].output == "evt-1 is pending\n"
        assert run(monkeypatch, answers()[5], "delete", "whk-1")[0].output == "whk-1 is gone\n"
        assert "https://example.com/hook" in run(monkeypatch, answers()[1], "list")[0].output
