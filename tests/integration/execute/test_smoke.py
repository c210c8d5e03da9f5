"""When a job stops early because its teacher's first examples say enough, and when it does not."""

from typing import Any

from distill.catalog import row_facts
from distill.db import unit_of_work
from distill.jobs.models import Job
from tests.integration.execute.house import House, knows, rows
from tests.support.scripted_lm import Answer, Ask, Hang


def message_number(ask: Ask) -> int:
    return int(ask.inputs["message"].split()[1])


def error(job: Job) -> dict[str, Any]:
    assert job.error is not None
    return job.error


def wrong_until(number: int) -> Any:
    """A teacher whose category is wrong for the messages before this one."""

    def answer(ask: Ask) -> Answer:
        if message_number(ask) < number and "category" in ask.outputs:
            return {"category": "technical" if message_number(ask) % 3 == 0 else "billing"}
        return knows(ask)

    return answer


class TestStop:
    def test_a_teacher_that_never_answers_stops_it_early_and_what_was_seen_is_kept(self, house: House) -> None:
        house.teacher.answer = lambda ask: "no field here" if ask.n < 20 else Hang()  # a run that goes on never ends
        job = house.compile(rows(200), num_threads=4, smoke_test=None, holdout={"n": 0})
        assert error(job)["code"] == "all_rollouts_failed"
        assert "The first 10 examples of the teacher all failed with the same error: AdapterParseError" in error(job)["message"]
        assert "before the other 190 examples" in error(job)["message"]
        assert len(house.teacher.calls) == 10
        with unit_of_work() as s:
            assert len(row_facts.every(s, job.id, "rollout", "teacher:0")) == 10

    def test_first_examples_that_do_not_pass_fail_the_smoke_test(self, house: House) -> None:
        house.teacher.answer = wrong_until(12)
        job = house.compile(rows(40), num_threads=4)
        assert (error(job)["code"], error(job)["param"]) == ("smoke_test_failed", "smoke_test")
        assert "Of the first 10 examples of the teacher 0 passed, at least 1 must: 10 scored below the bar." in error(job)["message"]
        assert len(house.teacher.calls) == 20, "two predictors, ten examples"

    def test_the_second_of_two_teachers_is_named(self, house: House) -> None:
        student = {"student": {"connection": "house", "model": "tiny", "temperature": 0.5}}
        house.student.answer = lambda ask: "no field here"
        job = house.compile(rows(20), teacher=[{}, {"lms": student}], evaluate={"roles": []})
        assert "The first 10 examples of teacher 2 all failed with the same error" in error(job)["message"]


class TestGoOn:
    def test_switched_off_it_lets_the_later_examples_teach(self, house: House) -> None:
        house.teacher.answer = wrong_until(12)
        job = house.compile(rows(16), smoke_test=None)
        assert job.status == "succeeded", job.error

    def test_a_lower_bar_of_its_own(self, house: House) -> None:
        house.teacher.answer = wrong_until(2)
        job = house.compile(rows(16), smoke_test={"n": 3, "min_pass": 1})
        assert job.status == "succeeded", job.error

    def test_ten_examples_are_counted_not_ten_rollouts(self, house: House) -> None:
        house.teacher.answer = lambda ask: knows(ask) if message_number(ask) >= 5 else "no field here"
        job = house.compile(rows(12), rollouts={"n": 8}, num_threads=1)
        assert job.status == "succeeded", job.error

    def test_answers_of_an_earlier_job_count(self, house: House) -> None:
        house.compile(rows(8))
        house.teacher.answer = lambda ask: knows(ask) if message_number(ask) >= 30 else "no field here"
        job = house.compile(rows(36), num_threads=4)
        assert job.status == "succeeded", job.error
