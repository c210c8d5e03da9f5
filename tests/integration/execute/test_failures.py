"""Jobs that stop, and what they say."""

from distill.catalog import connections, row_facts
from distill.db import unit_of_work
from distill.jobs import repository
from distill.jobs.models import Job
from distill.settings import Settings
from tests.integration.execute.house import SUPPORT, House, knows, rows
from tests.support.scripted_lm import Answer, Ask, Fail


def error(job: Job) -> dict[str, object]:
    assert job.status == "failed"
    assert job.error is not None
    return job.error


class TestNothingToTrainOn:
    def test_all_answers_unparsable_stops_before_training(self, house: House) -> None:
        house.teacher.answer = lambda ask: "no field here"
        job = house.compile(rows(6))
        assert error(job)["code"] == "all_rollouts_failed"
        assert error(job)["category"] == "user"
        assert str(error(job)["message"]).startswith("6 rollouts of the teacher, 0 usable: 0 failed, 6 unparsable. 6 × AdapterParseError")
        assert len(house.teacher.calls) == 6

    def test_the_smoke_test_stops_a_long_trainset_early(self, house: House) -> None:
        house.teacher.answer = lambda ask: "no field here"
        job = house.compile(rows(1500))
        assert error(job)["code"] == "all_rollouts_failed"
        # A loopback teacher answers faster than its failures are read; a slice of 512 is the most that can be under way.
        assert len(house.teacher.calls) < 600

    def test_no_trace_passes(self, house: House) -> None:
        house.teacher.answer = lambda ask: (
            {"category": "account", "answer": "x"} if "about account" not in ask.text else {"category": "billing"}
        )
        job = house.compile(rows(6))
        assert error(job)["code"] == "no_rows_kept"
        assert error(job)["step"] == "prepare"
        assert error(job)["param"] == "filter.min_score"
        assert str(error(job)["message"]).startswith("6 traces, 0 rows with score >= 1.0 (highest 0.0; 6 at 0.0).")

    def test_a_predictor_without_rows_is_named_with_what_became_of_them(self, house: House) -> None:
        # The chat prompt adapter writes an enum of numbers by value and reads it by name: such an answer does not come back as it was.
        levels = {"name": "level", "role": "output", "schema": {"title": "Level", "enum": [1, 2], "x-enum-names": ["LOW", "HIGH"]}}
        reply = SUPPORT["predictors"][1]
        signature = {**reply["signature"], "fields": [*reply["signature"]["fields"], levels]}
        house.teacher.answer = lambda ask: {**knows(ask), "level": "LOW"}
        job = house.compile(
            rows(6), program={**SUPPORT, "predictors": [SUPPORT["predictors"][0], {**reply, "signature": signature}]}, multitask=False
        )
        assert error(job)["code"] == "no_rows_for_predictor"
        assert "No training row for predictor `reply`. `reply`: 6 rows rejected (6 not_round_trip)." in str(error(job)["message"])


class TestTrouble:
    def test_a_busy_teacher_is_asked_again_and_nothing_is_stored_as_a_fact(self, house: House) -> None:
        refused = {"left": 6}

        def answer(ask: Ask) -> Answer:
            if refused["left"] > 0:
                refused["left"] -= 1
                return Fail(429, retry_after=0.0)
            return knows(ask)

        house.teacher.answer = answer
        job = house.compile(rows(6))
        assert job.status == "succeeded", job.error
        with unit_of_work() as s:
            assert {fact.status for fact in row_facts.every(s, job.id, "rollout", "teacher:0")} == {"ok"}

    def test_a_refused_key_fails_at_once_and_says_whose(self, house: House) -> None:
        house.teacher.answer = lambda ask: Fail(401, "invalid_api_key", "wrong key")
        job = house.compile(rows(6))
        assert error(job)["code"] == "connection_unauthorized"
        assert error(job)["param"] == "teacher"

    def test_a_connection_that_leads_elsewhere_since_the_submit_is_not_called(self, house: House) -> None:
        job_id = house.submit(rows(6))
        moved = house.connections["teacher"].model_copy(update={"base_url": house.student.url})
        with unit_of_work() as s:
            connections.sync(s, Settings(connections={**house.connections, "teacher": moved}))
        job = house.run(job_id)
        fault = error(job)
        assert (fault["code"], fault["param"], fault["retryable"]) == ("connection_changed", "teacher", False)
        assert "teacher" in str(fault["message"])
        assert house.teacher.calls == house.student.calls == []

    def test_some_examples_that_fail_do_not_stop_the_job(self, house: House) -> None:
        house.teacher.answer = lambda ask: "not a field" if "Message 2 " in ask.text else knows(ask)
        job = house.compile(rows(9))
        assert job.status == "succeeded", job.error
        with unit_of_work() as s:
            counts = next(view.counts for view in repository.steps(s, job.id) if view.name == "bootstrap")
        assert (counts["ok"], counts["unparsable"], counts["passed"]) == (8, 1, 8)
