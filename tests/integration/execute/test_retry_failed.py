"""Rollouts in which the program itself failed, run again where a job says so: once a job, and for all later ones."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.db import Page, unit_of_work
from distill.jobs import facts, refiltering, repository, retrying
from distill.jobs.models import Job
from distill.rollouts import ProgramHost
from tests.integration.execute.house import House, reap
from tests.integration.execute.test_crashes import work
from tests.support.installed import PACKAGE, make_runtime
from tests.support.scripted_lm import Answer, Ask, ScriptedLM

TEAMS = ("billing", "technical", "account")
ROWS = [{"message": f"Message {i} for {TEAMS[i % 3]}", "team": TEAMS[i % 3]} for i in range(6)]
FAILING = tuple(ROWS[i]["message"] for i in (1, 4))
OUT_OF_ORDER = "nobody"
"""What the LM says where the tool behind it is to fail."""
AGAIN: dict[str, Any] = {"rollouts": {"retry_failed": True}}
REQUEST: dict[str, Any] = {"metric": {"type": "exact_match", "fields": ["team"]}, "evaluate": {"roles": []}, "holdout": {"n": 0}}


class Desk:
    """A teacher that knows the teams, and a tool behind it that is out of order for some messages. Counts what it is asked, by message."""

    def __init__(self) -> None:
        self.out_of_order = set(FAILING)
        self.asked: Counter[str] = Counter()

    def __call__(self, ask: Ask) -> Answer:
        message = ask.inputs["message"]
        self.asked[message] += 1
        return {"team": OUT_OF_ORDER if message in self.out_of_order else message.split()[-1]}

    def asked_since(self, before: Counter[str]) -> dict[str, int]:
        return dict(self.asked - before)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def house(database: str, tmp_path: Path, desk: Desk) -> Iterator[House]:
    with (
        ScriptedLM(answer=desk) as teacher,
        ScriptedLM(answer=desk) as student,
        House(tmp_path, teacher, student, python=make_runtime(tmp_path / "runtime"), references=(PACKAGE,)) as opened,
    ):
        yield opened


def submit(house: House, **more: Any) -> str:
    program = ProgramHost(house.ports.runners).describe(house.project_id, {"reference": f"{PACKAGE}.directory:make_directory"})["program"]
    return house.submit(ROWS, program, **{**REQUEST, **more})


def seen(house: House, job: Job) -> dict[str, tuple[str, bool]]:
    """By message: how the job's own trace ended, and whether it passed. The job's word and the trace that it names are to agree."""
    with unit_of_work() as s:
        found = facts.list_rollouts(s, facts.Place(house.project_id, job.id), Page(limit=100))
        assert all(each.trace is not None and each.trace.status == each.fact.status for each in found.data)
        bodies = {json.loads(each.trace.body)["inputs"]["message"]: each.fact for each in found.data if each.trace is not None}
    return {message: (fact.status, bool(fact.passed)) for message, fact in bodies.items()}


def ended(failed: tuple[str, ...] = ()) -> dict[str, tuple[str, bool]]:
    return {row["message"]: ("failed", False) if row["message"] in failed else ("ok", True) for row in ROWS}


def bootstrap(job: Job) -> dict[str, Any]:
    with unit_of_work() as s:
        return next(dict(view.counts) for view in repository.steps(s, job.id) if view.name == "bootstrap")


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestRetryFailed:
    def test_what_failed_is_asked_again_by_a_job_that_says_so_and_stands_for_all_later_ones(self, house: House, desk: Desk) -> None:
        first = house.succeed(submit(house))
        assert seen(house, first) == ended(FAILING)
        desk.out_of_order.clear()

        before = Counter(desk.asked)
        again = house.succeed(submit(house, **AGAIN))
        assert desk.asked_since(before) == dict.fromkeys(FAILING, 1)
        assert seen(house, again) == ended()
        assert (bootstrap(again)["reused"], bootstrap(again)["passed"]) == (len(ROWS) - len(FAILING), len(ROWS))
        assert seen(house, first) == ended(FAILING), "what the earlier job says is as it was"

        before = Counter(desk.asked)
        with unit_of_work() as s:
            refiltered = refiltering.refilter(s, house.project_id, None, again.id, {"filter": {"min_score": 0.9}}).id
        assert seen(house, house.succeed(refiltered)) == ended()
        assert desk.asked_since(before) == {}, "nothing has failed any more"

    def test_a_worker_killed_after_the_traces_are_stored_asks_nothing_again(self, house: House, desk: Desk, tmp_path: Path) -> None:
        house.succeed(submit(house))
        house.close()
        house.open(keeps_replies=False)  # nothing but the stored traces keeps it from asking
        before = Counter(desk.asked)
        job_id = submit(house, **AGAIN)
        assert work(house, job_id, "bootstrap.before_publish", tmp_path / "markers") == -9
        assert desk.asked_since(before) == dict.fromkeys(FAILING, 1)
        reap()
        assert seen(house, house.succeed(job_id)) == ended(FAILING)
        assert desk.asked_since(before) == dict.fromkeys(FAILING, 1), "they failed again, and that is this job's fact"

    def test_a_job_asks_nothing_twice_however_often_it_is_retried_and_another_asks_anew(self, house: House, desk: Desk) -> None:
        every = {row["message"] for row in ROWS}
        desk.out_of_order = set(every)
        assert house.run(submit(house)).status == "failed"
        before = Counter(desk.asked)
        job_id = submit(house, **AGAIN)
        assert house.run(job_id).status == "failed"
        assert desk.asked_since(before) == dict.fromkeys(every, 1)
        with unit_of_work() as s:
            retrying.retry(s, house.project_id, job_id)
        assert house.run(job_id).status == "failed"
        assert house.run(submit(house)).status == "failed", "without the option the newest failure stands"
        assert desk.asked_since(before) == dict.fromkeys(every, 1)
        desk.out_of_order.clear()
        assert seen(house, house.succeed(submit(house, **AGAIN))) == ended()
        assert desk.asked_since(before) == dict.fromkeys(every, 2)
