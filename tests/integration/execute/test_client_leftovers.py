"""What a client's job cannot decide yet: stored rollouts without an answer, and an LM host that is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from distill.db import unit_of_work
from tests.integration.execute.client_player import METRIC, TOML, Player, answers, create
from tests.integration.execute.house import House, configured
from tests.support.scripted_lm import ScriptedLM

Json = dict[str, Any]

pytestmark = pytest.mark.slow


@pytest.fixture
def house(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    with configured(tmp_path, TOML, teacher, student) as opened:
        yield opened


def in_bootstrap(house: House, api: TestClient, **changes: Any) -> str:
    job_id = create(api, **changes)
    house.run(job_id, until=lambda job: job.step == "bootstrap", seconds=240)
    return job_id


def answers_about_bills_alone(example: Json, role: str) -> Json:
    made = answers(example, role)
    if example["inputs"]["message"].endswith("technical"):
        return {"status": "failed", "calls": made["calls"], "error": {"type": "ValueError", "message": "an odd message"}}
    if example["inputs"]["message"].endswith("account"):
        return {"status": "unparsable", "calls": made["calls"], "error": {"type": "AdapterParseError", "message": "no fields"}}
    return made


def test_a_stored_rollout_without_an_answer_scores_0_under_every_metric(house: House, api: TestClient) -> None:
    player = Player(api, run=answers_about_bills_alone)
    first = player.claim(in_bootstrap(house, api))
    assert first is not None
    player.send(first, first["examples"])
    assert player.publish(first).json()["status"] == "succeeded"

    item = player.claim(in_bootstrap(house, api, metric={**METRIC, "source": "2" * 64}))
    assert item is not None
    found = [rollout for example in item["examples"] for rollout in example["rollouts"]]
    assert {(each["trace"]["status"], each["score"] and each["score"]["value"]) for each in found} == {
        ("ok", None),
        ("failed", 0.0),
        ("unparsable", 0.0),
    }
    player.send(item, item["examples"])
    assert player.publish(item).json()["status"] == "succeeded"


def test_an_item_that_its_client_cannot_end_fails_the_job_with_the_reason(house: House, api: TestClient) -> None:
    job_id = in_bootstrap(house, api)
    player, error = Player(api), {"code": "work_item_incomplete", "message": "1 of 10 examples lack a score"}
    ended = []
    while (item := player.claim(job_id)) is not None:
        reply = api.post("/v1/work_items/release", json={"id": item["id"], "fence": item["fence"], "error": error})
        ended.append(reply.json()["status"])
        due_now(job_id)
    assert ended == ["queued"] * 4 + ["failed"]
    job = house.job(job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error["code"], job.error["category"], job.error["step"]) == ("work_item_incomplete", "system", "bootstrap")
    assert error["message"] in job.error["message"]


def due_now(job_id: str) -> None:
    with unit_of_work() as s:
        s.execute(text("UPDATE work_items SET run_after = clock_timestamp() WHERE job_id = :id"), {"id": job_id})
