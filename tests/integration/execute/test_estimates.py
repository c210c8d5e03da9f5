"""What a job would ask and cost, asked over HTTP of a project that has run it before, or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from distill.catalog import keys
from distill.db import unit_of_work
from distill.settings import get_settings
from tests.integration.api.test_trying_out import stored
from tests.integration.execute.house import SUPPORT, House, rows
from tests.support.scripted_lm import ScriptedLM

SETTINGS = """
[connections.teacher]
base_url = "{teacher}"
models = ["big"]
default_teacher = true

[connections.teacher.prices.big]
input = 2.0
output = 8.0

[connections.house]
base_url = "{student}"
models = ["tiny"]
default_student = true
supports = ["structured_outputs", "lora", "tools"]
trainer = "local"
"""
LEARNED, HELD_OUT, CALLS_OF_A_ROLLOUT = 2, 1, 2
BODY: dict[str, Any] = {"program": SUPPORT, "metric": {"type": "exact_match", "fields": ["category"]}, "valset": rows(12)[11:]}


@pytest.fixture
def house(database: str, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    settings = get_settings()
    (settings.home.parent / "stillhouse.toml").write_text(SETTINGS.format(teacher=teacher.url, student=student.url))
    get_settings.cache_clear()
    with House(settings.home, teacher, student) as opened:
        yield opened


@pytest.fixture
def api(house: House) -> Iterator[TestClient]:
    with unit_of_work() as s:
        token = keys.create(s, house.project_id, "test", ("jobs:read", "jobs:write"))[1]
    with TestClient(create_app(), headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


def estimate(api: TestClient, **changes: Any) -> dict[str, Any]:
    reply = api.post("/v1/compile_jobs/estimate", json={**BODY, "trainset": rows(LEARNED), **changes})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return {**found, "roles": {role["role"]: role for role in found["roles"]}}


@pytest.mark.slow
class TestEstimate:
    def test_what_was_run_before_costs_nothing_again_and_what_nobody_knows_is_not_made_up(self, api: TestClient, house: House) -> None:
        before, asked = stored(), len(house.teacher.calls) + len(house.student.calls)
        new = estimate(api)
        assert {name: role["rollouts"] for name, role in new["roles"].items()} == {
            "teacher:0": LEARNED, "baseline": HELD_OUT, "teacher": HELD_OUT, "compiled": HELD_OUT,
        }  # fmt: skip
        assert new["calls"] == (LEARNED + 3 * HELD_OUT) * CALLS_OF_A_ROLLOUT
        assert (new["rows"], new["training"]["fine_tuning_jobs"]) == ({"train": LEARNED, "holdout": HELD_OUT}, 1)
        assert (new["prompt_tokens"], new["total_usd"], new["seconds"]) == (None, None, None)
        assert "tokens of teacher:0: this program has not been run here" in new["unknown"]
        assert "price of house/tiny" in new["unknown"]
        assert (stored(), len(house.teacher.calls) + len(house.student.calls)) == (before, asked)

        made = api.post("/v1/compile_jobs", json={**BODY, "trainset": rows(LEARNED)}).json()
        assert made["spec_digest"] == new["spec_digest"]
        assert house.run(made["id"], seconds=400).status == "succeeded"

        again = estimate(api)
        assert {role["rollouts"] for role in again["roles"].values()} == {0}
        assert {name: role["stored"] for name, role in again["roles"].items()} == {
            "teacher:0": LEARNED, "baseline": HELD_OUT, "teacher": HELD_OUT, "compiled": HELD_OUT,
        }  # fmt: skip
        assert (again["calls"], again["prompt_tokens"], again["total_usd"], again["seconds"], again["unknown"]) == (0, 0, 0, 0, [])
        assert (again["training"]["fine_tuning_jobs"], again["training"]["reused"]) == (0, 1)

        grown = estimate(api, trainset=rows(LEARNED + 1), evaluate={"roles": ["teacher"]})
        teacher = grown["roles"]["teacher:0"]
        assert (teacher["stored"], teacher["rollouts"], teacher["calls"]) == (LEARNED, 1, CALLS_OF_A_ROLLOUT)
        assert grown["calls"] == CALLS_OF_A_ROLLOUT
        paid = (teacher["prompt_tokens"] * 2.0 + teacher["completion_tokens"] * 8.0) / 1_000_000
        assert paid > 0
        assert teacher["usd"] == pytest.approx(paid, rel=0.2)  # tokens are rounded up to whole ones
        assert grown["training"]["fine_tuning_jobs"] == 1

    def test_a_job_that_would_stop_before_it_asks_anybody_is_refused(self, api: TestClient) -> None:
        program = {**SUPPORT, "predictors": [SUPPORT["predictors"][0], {**SUPPORT["predictors"][1], "lm": "writer"}]}
        lms = {"student": {"prompt_adapter": "json"}, "writer": {"connection": "house", "prompt_adapter": "chat"}}
        reply = api.post("/v1/compile_jobs/estimate", json={**BODY, "trainset": rows(2), "program": program, "lms": lms})
        assert reply.status_code == 422, reply.text
        assert (reply.json()["error"]["code"], reply.json()["error"]["param"]) == ("mixed_prompt_adapters", "lms")
