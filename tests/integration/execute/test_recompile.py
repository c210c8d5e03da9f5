"""What a job asks the teacher that another has asked before, counted where the teacher's requests arrive."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from distill.db import unit_of_work
from distill.jobs import repository
from distill.jobs.models import Job
from distill.rollouts import Runner
from tests.integration.execute.house import House, rows

CALLS_OF_AN_EXAMPLE = 2
HELD_OUT = rows(16)[12:]


class Requests:
    """Those that reached the teacher inside a block: of examples that are learned from, and of held-out ones."""

    learned = held_out = 0


@contextmanager
def requests(house: House) -> Iterator[Requests]:
    before, found = len(house.teacher.calls), Requests()
    yield found
    asked = [call.body["messages"][-1]["content"] for call in house.teacher.calls[before:]]
    found.held_out = sum(any(row["message"] in text for row in HELD_OUT) for text in asked)
    found.learned = len(asked) - found.held_out


def until_trained(house: House, examples: int, **more: Any) -> Job:
    """A job up to its training files."""
    job_id = house.submit(rows(examples), **more)
    return house.run(job_id, until=lambda job: job.step == "train")


def bootstrap_counts(job: Job) -> dict[str, Any]:
    with unit_of_work() as s:
        return next(view.counts for view in repository.steps(s, job.id) if view.name == "bootstrap")


class TestTheSameAgain:
    def test_the_teacher_is_asked_nothing_neither_to_learn_nor_to_be_measured(self, house: House) -> None:
        with requests(house) as first:
            assert house.compile(rows(12), valset=HELD_OUT).status == "succeeded"
        with requests(house) as second:
            again = house.compile(rows(12), valset=HELD_OUT)
        assert again.status == "succeeded", again.error
        assert (first.learned, first.held_out) == (12 * CALLS_OF_AN_EXAMPLE, 4 * CALLS_OF_AN_EXAMPLE)
        assert (second.learned, second.held_out) == (0, 0)
        assert again.evaluation is not None
        assert (again.evaluation["teacher"]["score"], again.evaluation["teacher"]["n"]) == (1.0, 4)

    def test_another_release_of_dspy_with_the_same_prompts_costs_nothing(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        until_trained(house, 3)
        ask = Runner.ask
        monkeypatch.setattr(Runner, "ask", lambda runner, op, **body: {**ask(runner, op, **body), "dspy_version": "99.0"})
        with requests(house) as found:
            job = until_trained(house, 3)
        assert (job.plan or {})["dspy_version"] == "99.0"
        assert found.learned == 0


class TestSomethingElse:
    def test_only_what_is_new_to_the_teacher_is_paid(self, house: House) -> None:
        until_trained(house, 3)
        with requests(house) as added:
            job = until_trained(house, 5)
        counts = bootstrap_counts(job)
        assert added.learned == 2 * CALLS_OF_AN_EXAMPLE
        assert (counts["reused"], counts["teacher_calls"], counts["calls"]) == (3, 2 * CALLS_OF_AN_EXAMPLE, 2 * CALLS_OF_AN_EXAMPLE)

        with requests(house) as rescored:
            job = until_trained(house, 5, metric={"type": "f1", "field": "category"}, filter={"min_score": 0.5})
        assert rescored.learned == 0
        assert (bootstrap_counts(job)["passed"], bootstrap_counts(job)["reused"]) == (5, 5)

        with requests(house) as rendered_otherwise:
            until_trained(house, 5, demos="drop", render="teacher", multitask=False, seed=7)
        assert rendered_otherwise.learned == 0

        warmer = [{"lms": {"student": {"connection": "teacher", "model": "big", "temperature": 0.5}}}]
        with requests(house) as asked_otherwise:
            until_trained(house, 5, teacher=warmer)
        assert asked_otherwise.learned == 5 * CALLS_OF_AN_EXAMPLE
