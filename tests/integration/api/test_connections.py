"""What the API tells of connections: which there are, and which stands for an LM of a user's program."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

import stillhouse
from distill.catalog import connections
from distill.db import unit_of_work
from distill.settings import ConnectionSettings, Settings
from tests.integration.api.conftest import Tokens


def add_rules() -> None:
    teachers = {
        name: ConnectionSettings(base_url="http://teacher.test/v1", match=match)
        for name, match in (("mini", ["openai/gpt-4.1-mini"]), ("any", ["openai/gpt-4.1*"]), ("other", ["openai/gpt-4.1*"]))
    }
    with unit_of_work() as s:
        connections.sync(s, Settings(connections=teachers), disable_others=False)


@pytest.fixture
def ruled(api: TestClient) -> TestClient:
    add_rules()
    return api


class TestResolve:
    def test_rules_are_shown_and_followed(self, ruled: TestClient) -> None:
        shown = {row["name"]: row["match"] for row in ruled.get("/v1/connections").json()["data"]}
        assert shown == {"any": ["openai/gpt-4.1*"], "big": [], "house": [], "mini": ["openai/gpt-4.1-mini"], "other": ["openai/gpt-4.1*"]}
        reply = ruled.get("/v1/connections/resolve", params={"lm": "openai/gpt-4.1-mini"})
        assert reply.json() == {
            "object": "connection.resolved",
            "lm": "openai/gpt-4.1-mini",
            "connection": "mini",
            "model": "gpt-4.1-mini",
            "rule": "openai/gpt-4.1-mini",
        }
        assert ruled.get("/v1/connections/resolve?lm=house/tiny").json()["rule"] is None

    def test_refusals_name_the_connections(self, ruled: TestClient) -> None:
        equal = ruled.get("/v1/connections/resolve?lm=openai/gpt-4.1").json()["error"]
        assert (equal["code"], equal["param"]) == ("ambiguous_lm", "lm")
        assert "any (`openai/gpt-4.1*`) and other (`openai/gpt-4.1*`)" in equal["message"]
        nobody = ruled.get("/v1/connections/resolve?lm=mistral/large")
        assert (nobody.status_code, nobody.json()["error"]["code"]) == (404, "connection_not_found")
        assert ruled.get("/v1/connections/resolve").status_code == 422

    def test_a_rule_that_left_the_settings_is_gone(self, ruled: TestClient) -> None:
        with unit_of_work() as s:
            connections.sync(s, Settings(connections={"mini": ConnectionSettings(base_url="http://teacher.test/v1")}))
        assert ruled.get("/v1/connections/resolve?lm=openai/gpt-4.1-mini").status_code == 404

    def test_the_sdk_asks_the_same(self, tokens: Tokens, address: str) -> None:
        add_rules()  # a server that starts has those of its settings alone
        with stillhouse.Stillhouse(address, tokens.all) as client:
            assert [row.name for row in client.connections.list()] == ["any", "big", "house", "mini", "other"]
            found = client.connections.resolve("openai/gpt-4.1-mini")
            assert (found.connection, found.model) == ("mini", "gpt-4.1-mini")
            with pytest.raises(stillhouse.NotFoundError):
                client.connections.resolve("mistral/large")


@pytest.mark.parametrize("rule", ["", "house/tiny", "house/*", "gpt-?", "gpt-[45]", "two words"])
def test_a_rule_that_could_mean_something_else_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="match"):
        ConnectionSettings(base_url="http://teacher.test/v1", match=[rule])
