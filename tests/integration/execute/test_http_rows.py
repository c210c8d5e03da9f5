"""Rows sent over HTTP, as they reach the LM: nothing is reordered or guessed on the way."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from distill.catalog import connections, keys
from distill.db import unit_of_work
from distill.settings import Settings, get_settings
from tests.integration.execute.house import House, PretendTrainer, field_of

OPTIONS = '{"zeta":1,"b":2,"nested":{"y":[{"q":1,"a":2}],"x":null}}'
IN_A_PROMPT = '{"zeta": 1, "b": 2, "nested": {"y": [{"q": 1, "a": 2}], "x": null}}'
TYPED: dict[str, Any] = {
    "predictors": [
        {
            "name": "self",
            "lm": "student",
            "signature": {
                "fields": [
                    field_of("code", "input"),
                    field_of("options", "input", {"type": "object"}),
                    field_of("count", "input", {"type": "integer"}),
                    field_of("ratio", "input", {"type": "number"}),
                    field_of("flag", "input", {"type": "boolean"}),
                    field_of("day", "input", {"type": "string", "format": "date"}),
                    field_of("tags", "input", {"type": "array", "items": {"type": "string"}}),
                    field_of("past", "input", {"x-dspy-type": "History"}),
                    field_of("category", "output", {"type": "string", "enum": ["a", "b"]}),
                    field_of("rank", "output", {"enum": [1, 2]}),
                ]
            },
        }
    ]
}
PAST = '{"messages":[{"code":"0","category":"b","rank":2}]}'
ROW = (
    f'{{"code":"007","options":{OPTIONS},"count":3,"ratio":0.5,"flag":true,"day":"2026-01-02","tags":["t","u"],"past":{PAST},'
    '"category":"a","rank":1}'
)
EXPECTED = {"code": "007", "options": IN_A_PROMPT, "count": "3", "ratio": "0.5", "flag": "True", "day": "2026-01-02", "tags": '["t", "u"]'}


def csv_of(row: dict[str, Any]) -> str:
    """The row as a spreadsheet would write it: every cell text, JSON where a cell holds more than one value."""
    cells = [value if isinstance(value, str) else json.dumps(value, separators=(",", ":")) for value in row.values()]
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    return ",".join(row) + "\n" + ",".join(quoted) + "\n"


@pytest.fixture
def api(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The API over the house's database and blobs."""
    monkeypatch.setenv("STILLHOUSE_BLOBS__ROOT", str(house.folder / "blobs"))
    get_settings.cache_clear()
    with unit_of_work() as s:
        token = keys.create(s, house.project_id, "test", ["jobs:read", "jobs:write"])[1]
    with TestClient(create_app(), headers={"Authorization": f"Bearer {token}"}) as client:
        with unit_of_work() as s:
            connections.sync(s, Settings(connections=house.connections))  # an API that starts has those of its settings file alone
        yield client


class TestRows:
    @pytest.mark.parametrize("form", ["inline", "jsonl", "csv"])
    def test_values_and_the_order_of_their_keys_reach_the_prompt(self, house: House, api: TestClient, form: str) -> None:
        house.teacher.answer = lambda ask: {"category": "a", "rank": 1}
        trainset: Any = [json.loads(ROW)]
        if form != "inline":
            body, kind = (ROW, "application/jsonl") if form == "jsonl" else (csv_of(json.loads(ROW)), "text/csv")
            made = api.post("/v1/datasets", content=body.encode(), headers={"Content-Type": kind})
            assert made.status_code == 201, made.text
            trainset = made.json()["id"]
        reply = api.post("/v1/compile_jobs", json={"program": TYPED, "trainset": trainset, "metric": "exact_match"})
        assert reply.status_code == 201, reply.text
        job = house.run(reply.json()["id"])
        assert job.status == "succeeded", job.error
        (call,) = house.teacher.calls
        messages = call.body["messages"]
        assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
        told = messages[-1]["content"].partition("\n\nRespond with")[0]
        assert told == "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in EXPECTED.items())
        assert isinstance(house.trainer, PretendTrainer)
        assert house.trainer.jobs[0]["texts"][0]["prompt"] == messages
