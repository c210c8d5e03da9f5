"""Jobs that go on without some of their examples, and say so."""

import pytest

from distill.execute import rollouts
from distill.jobs.models import Job
from tests.integration.execute.house import House, guesses, knows, rows
from tests.support.scripted_lm import Answer, Ask, Fail

ONCE = 600.0
"""Seconds before a call is tried again, which are more than it has."""
TOO_LARGE = Fail(413, "too_large", "a request has at most 1000 bytes")


def warned(job: Job) -> list[tuple[str, str]]:
    return [(warning["message"], warning["url"]) for warning in job.warnings if warning["code"] == "examples_failed"]


class TestBootstrap:
    def test_examples_that_failed_are_counted_by_cause(self, house: House) -> None:
        def answer(ask: Ask) -> Answer:
            if "Message 2 " in ask.text or "Message 3 " in ask.text:
                return TOO_LARGE
            return "no field here" if "Message 4 " in ask.text else knows(ask)

        house.teacher.answer = answer
        job = house.compile(rows(9))
        assert job.status == "succeeded", job.error
        text = "3 of 9 examples failed: 2 too large, 1 unparsable"
        assert warned(job) == [(text, f"/v1/compile_jobs/{job.id}/rejections")]

    def test_an_example_that_the_host_never_answers_holds_up_nobody(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rollouts, "PAUSE_SECONDS", 0.01)
        house.close()
        house.pause_seconds = ONCE
        house.open()
        house.teacher.answer = lambda ask: Fail(500) if "Message 4 " in ask.text else knows(ask)
        job = house.compile(rows(9))
        assert job.status == "succeeded", job.error
        assert warned(job) == [("1 of 9 examples failed: 1 unavailable", f"/v1/compile_jobs/{job.id}/rejections")]

    def test_an_example_that_one_rollout_answers_has_not_failed(self, house: House) -> None:
        asked: set[str] = set()

        def answer(ask: Ask) -> Answer:
            first = ask.text not in asked
            asked.add(ask.text)
            return "no field here" if first else knows(ask)

        house.teacher.answer = answer
        job = house.compile(rows(6), rollouts={"n": 3})
        assert job.status == "succeeded", job.error
        assert warned(job) == []

    def test_when_no_call_can_be_made_the_refusal_says_what_the_host_said(self, house: House) -> None:
        house.teacher.answer = lambda ask: TOO_LARGE
        job = house.compile(rows(6))
        assert job.error is not None
        assert job.error["code"] == "all_rollouts_failed"
        assert "6 could not be run. 6 × too_large: " in job.error["message"]
        assert "a request has at most 1000 bytes" in job.error["message"]


class TestEvaluate:
    def test_held_out_examples_that_could_not_be_run_are_told(self, house: House) -> None:
        house.student.answer = lambda ask: TOO_LARGE if "Message 7 " in ask.text else guesses(ask)
        job = house.compile(rows(6), valset=rows(12)[6:], evaluate={"roles": ["baseline", "compiled"]})
        assert job.status == "succeeded", job.error
        text = "Evaluation: 2 of 12 examples failed: 2 too large. The scores leave them out."
        assert warned(job) == [(text, f"/v1/compile_jobs/{job.id}/traces")]

    def test_wrong_and_unparsable_answers_are_scores_and_no_warning(self, house: House) -> None:
        house.student.answer = lambda ask: guesses(ask) if ask.model.startswith("sh-") else "no field here"
        job = house.compile(rows(6), valset=rows(12)[6:])
        assert job.status == "succeeded", job.error
        assert warned(job) == []
