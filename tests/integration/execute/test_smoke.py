"""When a job stops early because its teacher answers nothing, and when it does not."""

from sqlalchemy import text

from distill.catalog import row_facts
from distill.db import unit_of_work
from distill.jobs import repository
from tests.integration.execute.house import House, knows, rows
from tests.support.scripted_lm import Answer, Ask, Hang


def message_number(ask: Ask) -> int:
    return int(ask.inputs["message"].split()[1])


class TestStop:
    def test_a_teacher_that_never_answers_stops_it_early_and_what_was_seen_is_kept(self, house: House) -> None:
        house.teacher.answer = lambda ask: "no field here" if ask.n < 40 else Hang()  # a run that goes on never ends
        job = house.compile(rows(200), num_threads=4)
        assert job.error is not None
        assert job.error["code"] == "all_rollouts_failed"
        assert len(house.teacher.calls) <= 44
        with unit_of_work() as s:
            assert len(row_facts.every(s, job.id, "rollout", "teacher:0")) >= 30

    def test_ten_examples_are_counted_not_ten_rollouts(self, house: House) -> None:
        def answer(ask: Ask) -> Answer:
            return knows(ask) if message_number(ask) >= 5 else "no field here"

        house.teacher.answer = answer
        job = house.compile(rows(12), rollouts={"n": 8}, num_threads=1)
        assert job.status == "succeeded", job.error


class TestGoOn:
    def test_a_slice_that_goes_wrong_while_another_publishes_answers_is_run_to_its_end(self, house: House) -> None:
        def answer(ask: Ask) -> Answer:
            if message_number(ask) == 20:
                publish_an_answer()
            return knows(ask) if message_number(ask) >= 60 else "no field here"

        house.teacher.answer = answer
        job = house.compile(rows(70), num_threads=2)
        assert job.status == "succeeded", job.error
        with unit_of_work() as s:
            assert len({fact.example_index for fact in row_facts.every(s, job.id, "rollout", "teacher:0")}) == 70
            counts = next(view.counts for view in repository.steps(s, job.id) if view.name == "bootstrap")
        assert (counts["unparsable"], counts["failed_examples"]) == (60, 60)

    def test_answers_of_an_earlier_job_count(self, house: House) -> None:
        house.compile(rows(8))
        house.teacher.answer = lambda ask: knows(ask) if message_number(ask) >= 60 else "no field here"
        job = house.compile(rows(70), num_threads=4)
        assert job.status == "succeeded", job.error


def publish_an_answer() -> None:
    """As a slice does that runs elsewhere."""
    with unit_of_work() as s:
        s.execute(text("UPDATE job_steps SET counts = jsonb_set(counts::jsonb, '{ok}', '1')::json WHERE name = 'bootstrap'"))
