"""What a client's job cannot decide yet: stored rollouts without an answer, and an LM host that is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from distill.db import unit_of_work
from distill.jobs import claims
from distill.settings import get_settings
from tests.integration.execute.client_player import METRIC, TOML, Player, answers, create
from tests.integration.execute.house import House, configured
from tests.support.scripted_lm import Fail, ScriptedLM

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


def test_a_refusal_of_what_was_sent_fails_the_job_at_once(house: House, api: TestClient) -> None:
    """Its rollouts would be paid for again at every attempt, and refused again."""
    job_id = in_bootstrap(house, api)
    item = Player(api).claim(job_id)
    assert item is not None
    error = {"code": "unknown_lm", "message": "traces[0]: there is no LM of this name"}
    reply = api.post("/v1/work_items/release", json={"id": item["id"], "fence": item["fence"], "error": error})
    assert reply.json()["status"] == "failed"
    found = house.job(job_id)
    assert (found.status, found.error and found.error["code"]) == ("failed", "unknown_lm")


def test_a_model_that_is_still_loading_costs_no_attempt(house: House, api: TestClient) -> None:
    job_id = in_bootstrap(house, api)
    player = Player(api)
    for _ in range(6):  # more than an item has attempts
        item = player.claim(job_id)
        assert item is not None
        assert item["attempt"] == 1
        assert player.publish(item, undecided=away(item, "model_loading")).json()["status"] == "queued"
        due_now(job_id)


def test_a_client_that_is_gone_does_not_count_as_a_connection_that_is_away(
    house: House, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = Player(api).claim(in_bootstrap(house, api))
    assert item is not None
    number = {"id": int(item["id"].removeprefix("work-"))}
    monkeypatch.setenv("STILLHOUSE_TIMERS__LEASE_SECONDS", "1")  # the server has been up for longer
    get_settings.cache_clear()
    with unit_of_work() as s:
        changed = "waits_since = clock_timestamp() - interval '1 hour', lease_expires_at = clock_timestamp() - interval '1 day'"
        s.execute(text(f"UPDATE work_items SET {changed} WHERE id = :id"), number)
        assert claims.reap(s) == number["id"]
        assert s.scalar(text("SELECT waits_since FROM work_items WHERE id = :id"), number) is None


def due_now(job_id: str) -> None:
    with unit_of_work() as s:
        s.execute(text("UPDATE work_items SET run_after = clock_timestamp() WHERE job_id = :id"), {"id": job_id})


def left_for_the_student(player: Player, job_id: str) -> None:
    """Work off what needs no teacher: nothing else can be claimed."""
    while (item := player.claim(job_id)) is not None:
        assert item["role"] == "baseline"
        player.send(item, item["examples"])
        assert player.publish(item).json()["status"] == "succeeded"


def away(item: Json, code: str) -> list[Json]:
    return [{"row": example["row"], "code": code, "message": "The LM host cannot answer now."} for example in item["examples"]]


def test_an_item_waits_while_the_lm_host_lends_its_device(house: House, api: TestClient) -> None:
    job_id = in_bootstrap(house, api)
    player = Player(api)
    item = player.claim(job_id)
    assert item is not None
    player.send(item, item["examples"][:4])
    lend(True)
    rest = away({**item, "examples": item["examples"][4:]}, "model_loading")
    assert player.publish(item, undecided=rest).json()["status"] == "queued"
    seen = api.get(f"/v1/compile_jobs/{job_id}").json()
    assert (seen["status"], seen["queue"]["reason"]) == ("running", "waiting for teacher: device handed over to training")
    left_for_the_student(player, job_id)

    lend(False)
    again = player.claim(job_id)
    assert again is not None
    assert again["attempt"] == 1, "it cost no attempt"
    assert [each["rollouts"][0]["trace"] is not None for each in again["examples"]] == [True] * 4 + [False] * 6
    player.send(again, again["examples"])
    assert player.publish(again).json()["status"] == "succeeded"


def test_an_item_waits_while_the_lm_host_is_away(house: House, api: TestClient, teacher: ScriptedLM) -> None:
    job_id = in_bootstrap(house, api)
    player = Player(api)
    item = player.claim(job_id)
    assert item is not None
    up = teacher.answer
    teacher.answer = lambda ask: Fail(402, "insufficient_quota", "pay first")
    chat = {"model": "teacher/big", "messages": [{"role": "user", "content": "hello"}]}
    refused = api.post("/v1/chat/completions", json=chat)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "quota_exhausted")
    assert player.publish(item, undecided=away(item, "quota_exhausted")).json()["status"] == "queued"
    assert api.get(f"/v1/compile_jobs/{job_id}").json()["queue"]["reason"] == "waiting for teacher: out of quota"
    left_for_the_student(player, job_id)

    time_has_come(job_id)
    tried = player.claim(job_id)
    assert tried is not None
    assert tried["width"] == 1, "one call at a time tries the host"
    assert player.publish(tried, undecided=away(tried, "quota_exhausted")).json()["status"] == "queued"
    assert player.claim(job_id) is None

    teacher.answer = up
    time_has_come(job_id)
    tried = player.claim(job_id)
    assert tried is not None
    player.send(tried, tried["examples"])
    assert player.publish(tried).json()["status"] == "succeeded"
    found = player.claim(job_id)
    assert found is not None
    assert found["width"] > 1, "its first item that went well ends the wait"


def limited(job_id: str) -> None:
    """The connection of the teacher waits, and the time of its next try has come."""
    since = "limited_since = clock_timestamp() - interval '1 minute', limited_until = clock_timestamp()"
    with unit_of_work() as s:
        s.execute(text(f"UPDATE connections SET {since}, limited_reason = 'rate_limited', limited_times = 1 WHERE name = 'teacher'"))
    due_now(job_id)


def is_limited() -> bool:
    with unit_of_work() as s:
        return bool(s.scalar(text("SELECT limited_since IS NOT NULL FROM connections WHERE name = 'teacher'")))


def test_a_try_without_a_call_ends_no_wait_and_does_not_hold_up_the_next(house: House, api: TestClient) -> None:
    job_id = in_bootstrap(house, api)
    player = Player(api)
    item = player.claim(job_id)
    assert item is not None
    player.send(item, item["examples"])
    assert api.post("/v1/work_items/release", json={"id": item["id"], "fence": item["fence"]}).status_code == 200
    limited(job_id)
    tried = player.claim(job_id)
    assert tried is not None
    assert tried["width"] == 1
    assert api.post("/v1/work_items/release", json={"id": tried["id"], "fence": tried["fence"]}).status_code == 200
    again = player.claim(job_id)
    assert again is not None, "the try that was given back may be made at once"
    assert again["width"] == 1
    assert player.publish(again).json()["status"] == "succeeded"  # all its traces were there
    assert is_limited(), "nobody has called the host"


def test_an_item_from_before_items_had_connections_waits_too(house: House, api: TestClient) -> None:
    job_id = in_bootstrap(house, api)
    with unit_of_work() as s:
        first = "SELECT min(id) FROM work_items WHERE job_id = :id AND queue = 'client'"
        s.execute(text(f"UPDATE work_items SET connections = '{{}}' WHERE id = ({first})"), {"id": job_id})
    player = Player(api)
    item = player.claim(job_id)
    assert item is not None
    lend(True)
    assert player.publish(item, undecided=away(item, "model_loading")).json()["status"] == "queued"
    assert api.get(f"/v1/compile_jobs/{job_id}").json()["queue"]["reason"] == "waiting for teacher: device handed over to training"


def test_a_last_short_range_with_an_example_that_always_times_out_is_left_out(house: House, api: TestClient) -> None:
    """The rest of the role has answered: it is the example's own trouble, and the job goes on without it."""
    job_id = in_bootstrap(house, api)
    player = Player(api)
    ended = []
    while (item := player.claim(job_id)) is not None:
        lost = item["examples"] if item["role"] != "baseline" and len(item["examples"]) <= 2 else []
        player.send(item, [example for example in item["examples"] if example not in lost])
        ended.append((len(lost), player.publish(item, undecided=away({"examples": lost}, "timeout")).json()["status"]))
        due_now(job_id)
    assert (2, "queued") in ended, "once it is asked again"
    assert (2, "succeeded") in ended
    assert house.job(job_id).status == "running"


def test_a_host_that_answers_nobody_never_counts_as_the_programs_fault(house: House, api: TestClient) -> None:
    job_id = in_bootstrap(house, api)
    player = Player(api)
    ended = []
    while (item := player.claim(job_id)) is not None:
        ended.append(player.publish(item, undecided=away(item, "unavailable")).json()["status"])
        due_now(job_id)
    assert ended == ["queued"] * 4 + ["failed"]
    error = house.job(job_id).error
    assert error is not None
    assert (error["code"], error["category"]) == ("unavailable", "system")


def test_held_out_examples_are_asked_again_before_they_are_left_out(house: House, api: TestClient) -> None:
    job_id = in_bootstrap(house, api)
    player = Player(api)
    units = 0
    while (item := player.claim(job_id)) is not None:
        lost = [example for example in item["examples"] if item["role"] == "baseline" and example["row"] == 2]
        player.send(item, [example for example in item["examples"] if example not in lost])
        assert player.publish(item, undecided=away({"examples": lost}, "timeout")).json()["status"] == "succeeded"
        units += len(item["examples"]) - len(lost)
        due_now(job_id)
    baseline = [[example["row"] for example in item["examples"]] for item in player.claims if item["role"] == "baseline"]
    assert baseline == [[1, 2, 3], [2]]
    evaluate = next(step for step in api.get(f"/v1/compile_jobs/{job_id}").json()["steps"] if step["name"] == "evaluate")
    assert evaluate["counts"]["undecided"] == 1


def lend(lent: bool) -> None:
    """The LM host of `teacher` has handed its device over to a training."""
    since = "clock_timestamp()" if lent else "NULL"
    with unit_of_work() as s:
        s.execute(text(f"UPDATE connections SET waiting_since = {since} WHERE name = 'teacher'"))


def time_has_come(job_id: str) -> None:
    """For the next try of a connection that waits."""
    with unit_of_work() as s:
        s.execute(text("UPDATE connections SET limited_until = clock_timestamp() WHERE limited_since IS NOT NULL"))
    due_now(job_id)


def test_an_item_given_back_with_its_hosts_error_ends_no_wait(house: House, api: TestClient) -> None:
    """Some of its calls were answered, and then the host limited it again."""
    job_id = in_bootstrap(house, api)
    player = Player(api)
    limited(job_id)
    tried = player.claim(job_id)
    assert tried is not None
    player.send(tried, tried["examples"])
    back = {"id": tried["id"], "fence": tried["fence"], "error": {"code": "rate_limited", "message": "429"}}
    assert api.post("/v1/work_items/release", json=back).status_code == 200
    assert is_limited()
