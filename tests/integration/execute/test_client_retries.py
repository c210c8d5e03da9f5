"""Failed rollouts that clients run again, several at once: each job has what its own client paid for, and the good one stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.integration.execute.client_player import METRIC, OWN, TOML, Player, answers, create
from tests.integration.execute.house import House, configured, rows
from tests.support.scripted_lm import ScriptedLM

Json = dict[str, Any]
EXAMPLES = 3
FAILING = 2
AGAIN: Json = {"rollouts": {"retry_failed": True}}
REQUEST: Json = {"valset": None, "holdout": {"n": 0}, "evaluate": {"roles": []}}


def fails(example: Json, role: str) -> Json:
    if example["row"] != FAILING:
        return answers(example, role)
    return {"status": "failed", "outputs": None, "calls": [], "error": {"type": "LookupError", "message": "the directory does not answer"}}


@pytest.fixture
def house(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    with configured(tmp_path, TOML, teacher, student) as opened:
        yield opened


def claimed(house: House, player: Player, **changes: Any) -> Json:
    """A job's slice, held by a client."""
    job_id = create(player.api, EXAMPLES, **{**REQUEST, **changes})
    house.run(job_id, until=lambda job: job.step == "bootstrap")
    item = player.claim(job_id)
    assert item is not None
    return item


def to_be_run(item: Json) -> list[int]:
    return [example["row"] for example in item["examples"] if example["rollouts"][0]["trace"] is None]


def published(api: TestClient, player: Player, item: Json) -> str:
    """End a slice; returns what its job says of the rollout that failed."""
    reply = player.publish(item)
    assert reply.json().get("status") == "succeeded", reply.text
    found = api.get(f"/v1/compile_jobs/{item['job']}/traces").json()["data"]
    (one,) = [each for each in found if each["row"] == FAILING]
    assert one["score"]["passed"] is (one["status"] == "ok")
    return str(one["status"])


def rollouts(api: TestClient, **changes: Any) -> int:
    """How many the estimate expects of the teacher."""
    body = {"program": OWN, "trainset": rows(EXAMPLES), "metric": METRIC, **REQUEST, **changes}
    reply = api.post("/v1/compile_jobs/estimate", json=body)
    assert reply.status_code == 200, reply.text
    return next(int(role["rollouts"]) for role in reply.json()["roles"] if role["role"] == "teacher:0")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_clients_that_retry_at_once_each_have_their_own_trace_and_the_good_one_stands(house: House, api: TestClient) -> None:
    broken, mended = Player(api, run=fails), Player(api)
    first = claimed(house, broken)
    broken.send(first, first["examples"])
    assert published(api, broken, first) == "failed"
    assert rollouts(api, **AGAIN) == 1

    plain, unlucky, lucky = claimed(house, mended), claimed(house, broken, **AGAIN), claimed(house, mended, **AGAIN)
    assert (to_be_run(plain), to_be_run(unlucky), to_be_run(lucky)) == ([], [FAILING], [FAILING])
    lucky_sent = [example for example in lucky["examples"] if example["row"] == FAILING]
    for _ in range(2):  # its reply was lost
        mended.send(lucky, lucky_sent)
    broken.send(unlucky, unlucky["examples"])
    back = {"id": unlucky["id"], "fence": unlucky["fence"]}
    assert api.post("/v1/work_items/release", json=back).status_code == 200
    again = broken.claim(unlucky["job"])
    assert again is not None
    assert to_be_run(again) == [], "its own failure is this job's fact"

    statuses = [published(api, mended, lucky), published(api, broken, again), published(api, mended, plain)]
    assert statuses == ["ok", "failed", "failed"]
    traces = {each["job"]: each for each in (first, lucky, again, plain)}
    found = {job: api.get(f"/v1/compile_jobs/{job}/traces").json()["data"] for job in traces}
    assert {job: [each["status"] for each in told if each["row"] == FAILING] for job, told in found.items()} == {
        first["job"]: ["failed"], lucky["job"]: ["ok"], again["job"]: ["failed"], plain["job"]: ["failed"],
    }  # fmt: skip
    paid = {job: api.get(f"/v1/compile_jobs/{job}").json()["steps"][1]["counts"]["teacher_calls"] for job in traces}
    assert (paid[lucky["job"]], paid[again["job"]], paid[plain["job"]]) == (2, 0, 0)

    assert rollouts(api, **AGAIN) == 0
    later = claimed(house, mended)
    assert to_be_run(later) == []
    assert published(api, mended, later) == "ok"
