"""`client.aliases` and evaluations: what is sent, by both clients."""

from __future__ import annotations

import asyncio
import json

import pytest

from stillhouse import ConflictError
from tests.unit.client.conftest import reply, scripted, scripted_async

PROD = {"id": "alias-1", "name": "router@prod", "artifact": "art-2"}
MOVE = {"id": "move-1", "created_at": 1, "name": "router@prod", "artifact": "art-2", "previous_artifact": None}


class TestAliases:
    def test_a_gate_is_sent_only_when_it_is_asked_for(self) -> None:
        client, script = scripted(reply(PROD))
        assert client.aliases.move("router@prod", "art-2").artifact == "art-2"
        client.aliases.move("router@prod", "art-2", against="router@prod", min_delta=-0.01)
        sent = [json.loads(request.content) for request in script.requests]
        assert sent == [{"artifact": "art-2"}, {"artifact": "art-2", "against": "router@prod", "min_delta": -0.01}]
        assert {request.method for request in script.requests} == {"PUT"}

    def test_a_refusal_has_its_code(self) -> None:
        client, _ = scripted(reply({"error": {"message": "no", "code": "worse"}}, 409), max_retries=0)
        with pytest.raises(ConflictError) as raised:
            client.aliases.move("router@prod", "art-2", against="router@prod")
        assert raised.value.code == "worse"

    def test_the_async_client_asks_the_same(self) -> None:
        page = {"data": [MOVE], "has_more": False}
        client, script = scripted_async(reply(PROD), reply(PROD), reply({"data": [PROD], "has_more": False}), reply(page), reply({}))

        async def ask() -> list[str]:
            async with client:
                await client.aliases.move("router@prod", "art-2", against="router@prod")
                found = await client.aliases.retrieve("router@prod")
                listed = await client.aliases.list(program="router")
                moves = await client.aliases.history("router@prod")
                await client.aliases.delete("router@prod")
                return [found.name, listed.data[0].name, moves.data[0].id]

        assert asyncio.run(ask()) == ["router@prod", "router@prod", "move-1"]
        assert [(request.method, request.url.path) for request in script.requests] == [
            ("PUT", "/v1/aliases/router@prod"),
            ("GET", "/v1/aliases/router@prod"),
            ("GET", "/v1/aliases"),
            ("GET", "/v1/aliases/router@prod/history"),
            ("DELETE", "/v1/aliases/router@prod"),
        ]


class TestEvaluation:
    def test_pairs_come_from_the_first_row_on(self) -> None:
        pair = {"row": 7, "change": "fix", "compiled": {"score": 1.0}, "against": {"score": 0.0}}
        pages = (reply({"data": [pair], "has_more": True, "last_id": "7"}), reply({"data": [{**pair, "row": 9}], "has_more": False}))
        client, script = scripted(*pages)
        assert [each.row for each in client.compile_jobs.pairs("cjob-1", change="fix", limit=1)] == [7, 9]
        assert dict(script.requests[0].url.params) == {"change": "fix", "limit": "1", "order": "asc"}
        assert script.requests[1].url.params["after"] == "7"

    def test_the_async_client_reads_them_too(self) -> None:
        client, _ = scripted_async(reply({"data": [{"role": "compiled", "score": 0.5}], "n": 4}), reply({"data": [], "has_more": False}))

        async def ask() -> tuple[float | None, list[object]]:
            async with client:
                evaluation = await client.compile_jobs.evaluation("cjob-1")
                pairs = await client.compile_jobs.pairs("cjob-1")
                return evaluation.data[0].score, list(pairs.data)

        assert asyncio.run(ask()) == (0.5, [])
