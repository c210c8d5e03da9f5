"""Another job from the traces of an earlier one: no teacher is asked, and equal trainings are reused."""

from typing import Any

import pytest

from distill.catalog import connections
from distill.db import unit_of_work
from distill.errors import Conflict
from distill.jobs import refiltering, repository
from distill.jobs.models import FineTuneJob, Job
from distill.settings import Settings
from tests.integration.execute.house import House, PretendTrainer, knows, rows
from tests.support.scripted_lm import Answer, Ask


def half_right(ask: Ask) -> Answer:
    """Wrong about every message about `account`."""
    return {"category": "billing"} if "category" in ask.outputs and "about account" in ask.text else knows(ask)


def refilter(house: House, job: Job, **changes: Any) -> Job:
    with unit_of_work() as s:
        made = refiltering.refilter(s, house.project_id, None, job.id, changes)
    return house.run(made.id)


def keys(job: Job) -> list[FineTuneJob]:
    with unit_of_work() as s:
        return repository.fine_tune_jobs(s, job.id)


class TestRefilter:
    def test_a_lower_bar_keeps_more_rows_of_the_same_traces(self, house: House) -> None:
        house.teacher.answer = half_right
        first = house.compile(rows(12), valset=rows(6))
        calls = len(house.teacher.calls)
        job = refilter(house, first, filter={"min_score": 0.0})
        assert job.status == "succeeded", job.error
        assert (job.derived_from, job.id != first.id) == (first.id, True)
        assert len(house.teacher.calls) == calls
        assert (keys(first)[0].rows, keys(job)[0].rows) == (16, 24)
        assert repository.spec_of(job).filter.dedup

    def test_a_higher_bar_asks_for_no_more_samples(self, house: House) -> None:
        house.teacher.answer = half_right
        first = house.compile(rows(12), filter={"min_score": 0.0}, rollouts={"n": 4})
        calls = len(house.teacher.calls)
        job = refilter(house, first, filter={"min_score": 1.0})
        assert job.status == "succeeded", job.error
        assert len(house.teacher.calls) == calls
        assert keys(job)[0].rows == 16

    def test_another_prompt_adapter_is_the_students_and_finds_the_teachers_traces(self, house: House) -> None:
        first = house.compile(rows(6))
        calls = len(house.teacher.calls)
        job = refilter(house, first, prompt_adapter="json")
        assert job.status == "succeeded", job.error
        assert len(house.teacher.calls) == calls
        assert isinstance(house.trainer, PretendTrainer)
        completions = [text["completion"][0]["content"] for text in house.trainer.jobs[1]["texts"]]
        assert all(content.startswith("{") for content in completions)

    def test_what_trains_the_same_is_not_trained_again(self, house: House) -> None:
        first = house.compile(rows(6))
        job = refilter(house, first, filter={"min_score": 0.5}, lms={"student": {"max_tokens": 32}})
        assert keys(job)[0].reused_from == keys(first)[0].id
        assert repository.spec_of(job).lms["student"].max_tokens == 32

    @pytest.mark.slow
    def test_another_student_learns_from_the_same_traces(self, house: House) -> None:
        first = house.compile(rows(6), valset=rows(3))
        two = house.connections["house"].model_copy(update={"models": [house.base_model, "another"]})
        with unit_of_work() as s:
            connections.sync(s, Settings(connections={**house.connections, "house": two}))
        assert isinstance(house.trainer, PretendTrainer)
        house.trainer.base = "sha256:another"
        taught, asked = len(house.teacher.calls), len(house.student.calls)
        job = refilter(house, first, lms={"student": {"model": "another"}})
        assert job.status == "succeeded", job.error
        assert len(house.teacher.calls) == taught
        assert [each["base_model"] for each in house.trainer.jobs] == [house.base_model, "another"]
        (key,) = keys(job)
        assert {call.body["model"] for call in house.student.calls[asked:]} == {"another", key.model_id}

    @pytest.mark.slow
    def test_other_train_options_train_again_on_the_same_rows(self, house: House) -> None:
        first = house.compile(rows(6), train_options={"n_epochs": 3, "lora_r": 4})
        job = refilter(house, first, train_options={"n_epochs": 5})
        assert keys(job)[0].training_file == keys(first)[0].training_file
        assert keys(job)[0].reused_from is None
        assert (keys(job)[0].options["n_epochs"], keys(job)[0].options["lora_r"]) == (5, 4)

    @pytest.mark.slow
    def test_a_teacher_that_has_moved_since_is_not_needed(self, house: House) -> None:
        first = house.compile(rows(6), valset=rows(3))
        moved = house.connections["teacher"].model_copy(update={"base_url": house.student.url})
        with unit_of_work() as s:
            connections.sync(s, Settings(connections={**house.connections, "teacher": moved}))
        calls = len(house.teacher.calls)
        job = refilter(house, first, filter={"top_k": 1})
        assert job.status == "succeeded", job.error
        assert len(house.teacher.calls) == calls
        assert job.evaluation is not None
        assert job.evaluation["teacher"]["score"] == 1.0

    def test_before_the_traces_are_complete_it_is_refused(self, house: House) -> None:
        job_id = house.submit(rows(6))
        with pytest.raises(Conflict) as refusal:
            refilter(house, house.job(job_id))
        assert refusal.value.code == "no_traces"
