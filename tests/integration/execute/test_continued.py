"""A job whose student already has a fine-tuned model: it is asked, and its training starts from that model's LoRA weights."""

from __future__ import annotations

from typing import Any

import pytest

from distill.catalog import lm_names, projects
from distill.db import unit_of_work
from distill.errors import Conflict, NotFound, StillhouseError
from distill.jobs import events, repository, trained
from tests.integration.execute.house import House, PretendTrainer, rows


def jobs(house: House) -> list[dict[str, Any]]:
    assert isinstance(house.trainer, PretendTrainer)
    return house.trainer.jobs


def model_of(job_id: str) -> str:
    with unit_of_work() as s:
        return str(repository.fine_tune_jobs(s, job_id)[0].model_id)


class TestTrainingOn:
    def test_a_second_training_starts_from_the_first_ones_weights(self, house: House) -> None:
        first = model_of(house.compile(rows(6)).id)
        again = house.compile(rows(6), valset=rows(3), lms={"student": {"model": first}})
        assert again.status == "succeeded", again.error
        assert [job.get("start_from") for job in jobs(house)] == [None, "start"], "equal rows, but other weights to start from"
        assert [job["base_model"] for job in jobs(house)] == ["tiny", "tiny"]
        weights = (house.folder / "lora" / first / "adapter_model.safetensors").read_text()
        assert jobs(house)[1]["start"]["adapter_model.safetensors"] == weights
        assert again.evaluation is not None
        assert again.evaluation["baseline"]["score"] == 1.0, "the student before this training is the tuned model"
        second = model_of(again.id)
        assert second != first
        with unit_of_work() as s:
            told = [event.message for event in events.after(s, again.id, 0)]
        assert f"The training of LM student starts from the LoRA weights of {first}" in told

        third = house.compile(rows(6), lms={"student": {"model": first}})
        assert third.status == "succeeded", third.error
        assert model_of(third.id) == second
        assert len(jobs(house)) == 2, "the same training from the same weights is not repeated"

    def test_a_model_that_a_job_starts_from_is_not_deleted(self, house: House) -> None:
        first = model_of(house.compile(rows(6)).id)
        going = house.submit(rows(9), lms={"student": {"model": first}})
        with unit_of_work() as s, pytest.raises(Conflict, match=f"job {going} uses {first} and is not over"):
            trained.delete(s, house.project_id, first)
        house.succeed(going)
        with unit_of_work() as s:
            trained.delete(s, house.project_id, first)
        with pytest.raises(StillhouseError, match=rf"lms.student.model: no model {first}"):
            house.submit(rows(9), lms={"student": {"model": first}})

    def test_what_cannot_be_trained_on_is_refused_before_anything_is_paid(self, house: House) -> None:
        first = model_of(house.compile(rows(6), train_options={"lora_r": 8, "target_modules": ["q_proj", "v_proj"]}).id)
        calls = len(house.teacher.calls)
        for lm, told in (
            ({"connection": "teacher"}, rf"lms.student.connection: {first} is served by house"),
            ({"base_model": "other"}, rf"lms.student.base_model: {first} was trained on tiny, and so is what starts from it"),
            ({"train_options": {"lora_r": 16}}, rf"lms.student.train_options.lora_r: {first} has 8, which its training keeps"),
            (
                {"train_options": {"target_modules": ["q_proj"]}},
                rf"lms.student.train_options.target_modules: {first} has q_proj, v_proj, which its training keeps",
            ),
        ):
            with pytest.raises(StillhouseError, match=told):
                house.submit(rows(6), lms={"student": {"model": first, **lm}})
        more = {"lora_r": 8, "target_modules": ["q_proj", "v_proj", "o_proj"]}
        house.submit(rows(6), lms={"student": {"model": first, "train_options": more}})
        assert len(house.teacher.calls) == calls

    def test_dspys_name_of_a_tuned_model_means_the_project_s_own(self, house: House) -> None:
        first = model_of(house.compile(rows(6)).id)
        with unit_of_work() as s:
            for name in (first, f"tune/{first}", f"house/{first}"):
                found = lm_names.resolve(s, house.project_id, name)
                assert (found.connection.name, found.model) == ("house", first), name
            house.project_id = projects.ensure(s, "other").id
            with pytest.raises(NotFound, match=f"no model {first}"):
                lm_names.resolve(s, house.project_id, f"tune/{first}")
        with pytest.raises(NotFound, match=rf"lms.student.model: no model {first}"):
            house.submit(rows(6), lms={"student": {"model": first}})
