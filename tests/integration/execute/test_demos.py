"""`demos: "auto"`: the untrained student shows whether it is better with its demos or without, and the job goes on that way."""

import json
from typing import Any

import pytest
from sqlalchemy import func, select

from distill.catalog import artifacts
from distill.catalog.facts import LmUsage, RowFact
from distill.db import unit_of_work
from distill.jobs import events
from distill.jobs.models import Job
from tests.integration.execute.house import SUPPORT, House, PretendTrainer, guesses, knows, rows
from tests.support.scripted_lm import Answer, Ask

DEMO = {"message": "A demo about billing", "category": "billing"}


def with_demos(*demos: dict[str, Any]) -> dict[str, Any]:
    classify, reply = SUPPORT["predictors"]
    return {**SUPPORT, "predictors": [{**classify, "demos": list(demos)}, reply]}


def shows_demo(messages: list[dict[str, Any]]) -> bool:
    return "A demo about" in json.dumps(messages)


def helped_by_demos(ask: Ask) -> Answer:
    return knows(ask) if shows_demo(ask.messages) else guesses(ask)


def harmed_by_demos(ask: Ask) -> Answer:
    return guesses(ask) if shows_demo(ask.messages) else knows(ask)


def trial_of(job: Job) -> list[Any]:
    with unit_of_work() as s:
        return [event for event in events.after(s, job.id, 0) if (event.data or {}).get("code") == "demos_chosen"]


def manifest_of(job: Job) -> dict[str, Any]:
    with unit_of_work() as s:
        made = artifacts.of_job(s, job.id)
        assert made is not None
        manifest: dict[str, Any] = json.loads(made.manifest)
        return manifest


def prompts_of(house: House) -> list[str]:
    assert isinstance(house.trainer, PretendTrainer)
    return [json.dumps(row["prompt"]) for row in house.trainer.jobs[-1]["texts"]]


@pytest.mark.parametrize(("answers", "taken"), [pytest.param(helped_by_demos, "keep", marks=pytest.mark.slow), (harmed_by_demos, "drop")])
def test_the_better_way_is_trained_told_and_shipped(house: House, answers: Any, taken: str) -> None:
    house.student.answer = answers
    job = house.compile(rows(12), program=with_demos(DEMO), valset=rows(6))
    assert job.status == "succeeded", job.error
    (told,) = trial_of(job)
    kept = taken == "keep"
    low = pytest.approx(1 / 3)
    assert told.data["taken"] == taken
    assert (told.data["keep"], told.data["drop"]) == ((1.0, low) if kept else (low, 1.0))
    assert any("A demo about" in prompt for prompt in prompts_of(house)) is kept
    manifest = manifest_of(job)
    assert manifest["demos"]["taken"] == taken
    assert told.message == manifest["demos"]["why"]
    compiled = [call.body["messages"] for call in house.student.calls if call.body["model"].startswith("sh-")]
    assert {shows_demo(messages) for messages in compiled if "one team" in messages[0]["content"]} == {kept}
    assert job.evaluation is not None
    assert set(job.evaluation) >= {"baseline", "compiled"}
    assert "demos:keep" not in job.evaluation


@pytest.mark.slow
def test_its_calls_are_the_students_and_all_are_counted(house: House) -> None:
    job = house.compile(rows(12), program=with_demos(DEMO), holdout={"n": 0})
    assert job.status == "succeeded", job.error
    with unit_of_work() as s:
        paid = select(LmUsage.role, func.sum(LmUsage.calls)).where(LmUsage.job_id == job.id).group_by(LmUsage.role)
        usage = {role: int(calls) for role, calls in s.execute(paid)}
        tried = s.scalars(select(RowFact.example_index).where(RowFact.job_id == job.id, RowFact.role == "demos:drop")).all()
    assert sorted(tried) == list(range(12))
    assert usage == {"teacher:0": 24, "demos:keep": 48}


@pytest.mark.slow
def test_a_second_job_tries_nothing_again(house: House) -> None:
    house.student.answer = harmed_by_demos
    first = house.compile(rows(12), program=with_demos(DEMO), holdout={"n": 0})
    asked = len(house.student.calls)
    again = house.compile(rows(12), program=with_demos(DEMO), holdout={"n": 0})
    assert len(house.student.calls) == asked
    assert trial_of(first)[0].data == trial_of(again)[0].data


@pytest.mark.slow
def test_rows_that_a_demo_shows_are_not_tried(house: House) -> None:
    shown = {"message": rows(12)[3]["message"], "category": rows(12)[3]["category"]}
    job = house.compile(rows(12), program=with_demos(shown), holdout={"n": 0})
    (told,) = trial_of(job)
    assert told.data["examples"] == 11


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"demos": "keep"}, {"demos": "drop"}, {"render": "teacher"}], ids=str)
def test_nothing_is_tried_where_the_user_has_chosen(house: House, more: dict[str, Any]) -> None:
    job = house.compile(rows(6), program=with_demos(DEMO), holdout={"n": 0}, **more)
    assert job.status == "succeeded", job.error
    assert trial_of(job) == []
    assert manifest_of(job)["demos"] == {"taken": more.get("demos", "auto")}


@pytest.mark.slow
def test_nothing_is_tried_where_only_incomplete_demos_could_be_kept(house: House) -> None:
    job = house.compile(rows(6), program=with_demos({"message": "A demo about nothing"}), holdout={"n": 0})
    assert job.status == "succeeded", job.error
    assert trial_of(job) == []
