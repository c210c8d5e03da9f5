"""A run in which three examples of ten fail, in five different ways: the others are trained on, and each failure has its reason."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.views.facts import rejection_read
from distill.db import Page, unit_of_work
from distill.jobs import events, facts, repository
from distill.sandbox import Choice
from tests.integration.execute import odd_runner
from tests.integration.execute.house import CATEGORIES, House, guesses, knows
from tests.support.scripted_lm import Answer, Ask, ScriptedLM

GARBAGE = "garbage"
WAYS = {odd_runner.RAISES: 3, GARBAGE: 3, odd_runner.HANGS: 2, odd_runner.METRIC_RAISES: 2, odd_runner.METRIC_NAN: 2}
EXAMPLES = 40
NAN = "the metric returned float nan, expected a number, True or False"


def rows() -> list[dict[str, str]]:
    """12 of 40 go wrong: every third one, until there are no more ways."""
    ways = [way for way, count in WAYS.items() for _ in range(count)]
    hows = [ways.pop(0) if at % 3 == 2 and ways else "fine" for at in range(EXAMPLES)]
    return [{"message": f"{how}: message {at} about {CATEGORIES[at % 3]}", "category": CATEGORIES[at % 3]} for at, how in enumerate(hows)]


def answer(ask: Ask) -> Answer:
    return "no field here" if ask.inputs["message"].startswith(GARBAGE) else knows(ask)


@pytest.fixture
def house(database: str, tmp_path: Path) -> Iterator[House]:
    """Its runners run the odd program and the odd metric.

    No sandbox would show them the files of the tests.
    """
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n{odd_runner.MENDED}="{tmp_path / "mended"}" exec "{sys.executable}" "{odd_runner.__file__}" "$@"\n')
    python.chmod(0o755)
    with (
        ScriptedLM(answer=answer) as teacher,
        ScriptedLM(answer=guesses) as student,
        House(tmp_path, teacher, student, python=str(python), sandbox=Choice(None)) as opened,
    ):
        yield opened


class TestThreeOfTen:
    def test_the_job_succeeds_says_what_became_of_each_and_pays_for_none_twice(self, house: House) -> None:
        job = house.compile(rows(), num_threads=8, evaluate={"roles": []}, holdout={"n": 0})
        assert job.status == "succeeded", job.error
        assert counts(job.id) == {"ok": 32, "failed": 3, "unparsable": 3, "metric_failed": 4, "passed": 28, "undecided": 2}
        assert reasons(job) == {
            ("failed", "KeyError: 'no such customer'"): 3,
            ("unparsable", "AdapterParseError: ChatAdapter found no category in the answer"): 3,
            ("time_limit", f"time_limit: not done within {odd_runner.LIMIT_SECONDS} s"): 2,
            ("metric_failed", "ZeroDivisionError: division by zero"): 2,
            ("metric_failed", NAN): 2,
        }
        with unit_of_work() as s:
            made = [(one.rows or 0) + (one.validation_rows or 0) for one in repository.fine_tune_jobs(s, job.id)]
        assert made == [56], "two predictors, 28 examples"
        told = next(warning["message"] for warning in job.warnings if warning["code"] == "examples_failed")
        assert told == "12 of 40 examples failed: 4 on which the metric failed, 3 failed, 3 unparsable, 2 timeout"
        assert asked(house) == 2 * (EXAMPLES - 3 - 3 - 2) + 3
        check_events(job.id, asked(house))

        before = asked(house)
        again = house.compile(rows()[:24], num_threads=8, evaluate={"roles": []}, holdout={"n": 0})
        assert again.status == "succeeded", again.error
        assert asked(house) == before, "what is a fact is not asked again; the two that hang never came to ask"
        assert counts(again.id) == {"ok": 16, "failed": 3, "unparsable": 3, "metric_failed": 0, "passed": 16, "undecided": 2}

    @pytest.mark.slow
    def test_a_metric_that_failed_is_asked_again_by_a_job_that_says_so(self, house: House, tmp_path: Path) -> None:
        """Its trace is the one that is stored: no LM is asked."""
        trainset = [row for row in rows() if row["message"].startswith(("fine", "metric"))][-16:]
        first = self.scored(house, trainset)
        assert metrics_failed(first) == {"ZeroDivisionError: division by zero": 2, NAN: 2}
        before = asked(house)
        (tmp_path / "mended").touch()
        assert metrics_failed(self.scored(house, trainset)) == metrics_failed(first), "a score is a fact"
        again = self.scored(house, trainset, rollouts={"retry_failed": True})
        assert metrics_failed(again) == {NAN: 2}
        assert metrics_failed(self.scored(house, trainset, seed=1)) == {NAN: 2}, "it stands for later jobs"
        assert metrics_failed(first) == {"ZeroDivisionError: division by zero": 2, NAN: 2}, "the earlier job says what it saw"
        assert asked(house) == before

    @pytest.mark.slow
    def test_one_that_fails_as_before_keeps_no_later_sample_from_being_asked_again(self, house: House, tmp_path: Path) -> None:
        """Samples of another temperature are asked after the first ones, whose scores are in the store by then."""
        trainset = [row for row in rows() if row["message"].startswith(("fine", "metric"))][-16:]
        two = {"n": 2, "temperature": 0.9, "stop_on_pass": False}
        assert metrics_failed(self.scored(house, trainset, rollouts=two)) == {"ZeroDivisionError: division by zero": 4, NAN: 4}
        (tmp_path / "mended").touch()
        assert metrics_failed(self.scored(house, trainset, rollouts={**two, "retry_failed": True})) == {NAN: 4}

    def scored(self, house: House, trainset: list[dict[str, str]], **more: Any) -> Any:
        job = house.compile(trainset, num_threads=8, evaluate={"roles": []}, holdout={"n": 0}, **more)
        assert job.status == "succeeded", job.error
        return job


def metrics_failed(job: Any) -> dict[str | None, int]:
    return {message: count for (reason, message), count in reasons(job).items() if reason == "metric_failed"}


def check_events(job_id: str, calls: int) -> None:
    """What was left out is told with the first row of each reason, slice by slice; an answer to look at; and what it has cost."""
    with unit_of_work() as s:
        told = {type: [one for one in events.after(s, job_id, 0) if one.type == type] for type in ("bootstrap.rejected", "sample", "cost")}
    left_out = [one.data or {} for one in told["bootstrap.rejected"]]
    reasons: Counter[str] = sum((Counter(data["reasons"]) for data in left_out), Counter())
    assert reasons == {"failed": 3, "unparsable": 3, "metric_failed": 4, "time_limit": 2}
    of = {(reason, row) for data in left_out for reason, row in data["first_rows"].items()}
    assert ("failed", next(at for at, row in enumerate(rows(), 1) if row["message"].startswith(odd_runner.RAISES))) in of
    assert f"(first: row {left_out[0]['first_rows']['failed']})" in told["bootstrap.rejected"][0].message
    for data in (one.data or {} for one in told["sample"]):
        assert data["outputs"]["category"] == rows()[data["row"] - 1]["category"]
    assert told["sample"]
    (cost,) = told["cost"]
    assert cost.data is not None
    assert (cost.data["calls"], cost.data["saved_calls"], cost.data["usd"]) == (calls, 0, None)


def counts(job_id: str) -> dict[str, Any]:
    with unit_of_work() as s:
        found = next(view.counts for view in repository.steps(s, job_id) if view.name == "bootstrap")
    return {name: found[name] for name in ("ok", "failed", "unparsable", "metric_failed", "passed", "undecided")}


def reasons(job: Any) -> Counter[tuple[str, str | None]]:
    place = facts.place_of(job)
    with unit_of_work() as s:
        read = [rejection_read(fact) for fact in facts.list_rejections(s, place, Page(limit=100)).data]
        for why in {each.reason for each in read}:
            assert len(facts.list_rejections(s, place, Page(limit=100), facts.RejectionFilter(why)).data) == sum(
                each.reason == why for each in read
            )
    return Counter((each.reason, each.message) for each in read)


def asked(house: House) -> int:
    return len(house.teacher.calls)
