"""A key that was trained before, on the same rows with the same options, is not trained again."""

import json
from typing import Any

import pytest

from distill.catalog import artifacts, fine_tuned
from distill.db import unit_of_work
from distill.execute.train_folder import training_digest
from distill.jobs import repository
from distill.jobs.models import FineTuneJob, Job
from tests.integration.execute.house import House, PretendTrainer, rows


def trainings(house: House) -> int:
    assert isinstance(house.trainer, PretendTrainer)
    return len(house.trainer.jobs)


def keys(job: Job) -> list[FineTuneJob]:
    with unit_of_work() as s:
        return repository.fine_tune_jobs(s, job.id)


class TestReuse:
    def test_the_same_job_again_trains_nothing_asks_nobody_and_reaches_an_artifact(self, house: House) -> None:
        first = house.compile(rows(12), valset=rows(6), multitask=False)
        calls = len(house.teacher.calls), len(house.student.calls)
        again = house.compile(rows(12), valset=rows(6), multitask=False)
        assert again.status == "succeeded", again.error
        assert trainings(house) == 2
        assert [key.reused_from for key in keys(again)] == [key.id for key in keys(first)]
        assert [key.model_id for key in keys(again)] == [key.model_id for key in keys(first)]
        assert [key.curve for key in keys(again)] == [key.curve for key in keys(first)]
        assert (len(house.teacher.calls), len(house.student.calls)) == calls
        with unit_of_work() as s:
            counts = next(view.counts for view in repository.steps(s, again.id) if view.name == "train")
            artifact = artifacts.of_job(s, again.id)
        assert (counts["keys"], counts["reused"]) == (2, 2)
        assert artifact is not None
        manifest = json.loads(artifact.manifest)
        assert {part["model"] for part in manifest["predictors"].values()} == {key.model_id for key in keys(first)}
        assert again.evaluation == first.evaluation

    def test_only_the_keys_whose_rows_changed_are_trained(self, house: House) -> None:
        first = house.compile(rows(9), multitask=False)
        house.teacher.answer = lambda ask: (
            {"category": ask.inputs["message"].split()[-1]} if "category" in ask.outputs else {"answer": "Something else."}
        )
        again = house.compile(rows(9), multitask=False, lms={"student": {}}, teacher=[{"lms": {"student": {"temperature": 0.5}}}])
        assert again.status == "succeeded", again.error
        assert trainings(house) == 3
        assert {key.predictor: key.reused_from for key in keys(again)} == {"classify": keys(first)[0].id, "reply": None}

    @pytest.mark.parametrize("change", [{"seed": 7}, {"train_options": {"n_epochs": 3}}])
    @pytest.mark.slow
    def test_another_seed_or_option_is_another_training(self, house: House, change: dict[str, Any]) -> None:
        house.compile(rows(6))
        again = house.compile(rows(6), **change)
        assert trainings(house) == 2
        assert keys(again)[0].reused_from is None

    def test_other_weights_under_the_same_name_are_another_training(self, house: House) -> None:
        house.compile(rows(6))
        assert isinstance(house.trainer, PretendTrainer)
        house.trainer.base = "sha256:newer"
        house.compile(rows(6))
        assert trainings(house) == 2

    def test_options_count_as_the_trainer_chooses_them(self, house: House) -> None:
        """A release with other defaults does not take an old model for a new one; who asks for what was chosen does."""
        house.compile(rows(6))
        assert isinstance(house.trainer, PretendTrainer)
        house.trainer.epochs = 3
        house.compile(rows(6))
        assert trainings(house) == 2
        asked = house.compile(rows(6), train_options={"n_epochs": 3})
        assert trainings(house) == 2
        assert keys(asked)[0].result == {"options": {**keys(asked)[0].options, "n_epochs": 3}}

    def test_a_deleted_model_is_trained_again(self, house: House) -> None:
        first = house.compile(rows(6))
        with unit_of_work() as s:
            fine_tuned.delete(s, house.project_id, str(keys(first)[0].model_id))
        again = house.compile(rows(6))
        assert trainings(house) == 2
        assert again.status == "succeeded", again.error

    @pytest.mark.slow
    def test_generation_options_are_no_part_of_a_training(self, house: House) -> None:
        house.compile(rows(6))
        again = house.compile(rows(6), lms={"student": {"max_tokens": 64}})
        assert again.status == "succeeded", again.error
        assert trainings(house) == 1

    @pytest.mark.slow
    def test_a_model_that_its_host_no_longer_has_is_loaded_again(self, house: House) -> None:
        first = house.compile(rows(6), valset=rows(3))
        house.host.loaded.clear()
        again = house.compile(rows(6), valset=rows(3), name="again")
        assert again.status == "succeeded", again.error
        assert trainings(house) == 1
        assert set(house.host.loaded) == {keys(first)[0].model_id}


class TestTrainingDigest:
    @pytest.mark.slow
    def test_it_is_kept_with_the_key_and_is_that_of_the_files_and_options(self, house: House) -> None:
        (key,) = keys(house.compile(rows(6)))
        assert key.result is not None
        options = key.result["options"]
        assert key.training_digest == training_digest(key, 0, "sha256:pretend", options)
        assert key.training_digest != training_digest(key, 1, "sha256:pretend", options)
