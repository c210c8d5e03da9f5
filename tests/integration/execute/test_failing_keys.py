"""A key that cannot be trained does not stop the others, and the job says which it was."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from distill.db import unit_of_work
from distill.errors import Conflict, Invalid
from distill.execute.lm_host import HostRefused
from distill.jobs import events, repository, retrying
from distill.jobs.models import FineTuneJob, Job
from distill.trainers.base import TrainCallbacks, Training, TrainOutcome, TrainRequest
from tests.integration.execute.house import House, PretendTrainer, PretendTraining, knows, rows
from tests.support.scripted_lm import Fail

ERROR = {"code": "rows_too_long", "message": "A row is too long.", "param": "rows"}


@dataclass
class PickyTrainer(PretendTrainer):
    """Refuses the rows whose prompt holds a word, until it is told to take them."""

    refuses: str = "Route a customer message"

    def start(self, request: TrainRequest, callbacks: TrainCallbacks) -> Training:
        if self.refuses and self.refuses in (request.folder / "rows.jsonl").read_text():
            (request.folder / "log.txt").write_text("rows_too_long\n")
            return PretendTraining(TrainOutcome("bad_input", 2, error=ERROR))
        return super().start(request, callbacks)


def keys(job: Job) -> dict[str, FineTuneJob]:
    with unit_of_work() as s:
        return {key.predictor: key for key in repository.fine_tune_jobs(s, job.id)}


def retry(house: House, job: Job, key: str | None = None) -> Job:
    with unit_of_work() as s:
        retrying.retry(s, house.project_id, job.id, key)
    return house.run(job.id)


def picky(house: House) -> PickyTrainer:
    house.trainer = PickyTrainer()
    house.close()
    house.open()
    return house.trainer


class TestOneKeyFails:
    def test_the_others_are_trained_and_kept_and_the_job_names_it(self, house: House) -> None:
        picky(house)
        job = house.compile(rows(12), valset=rows(6), multitask=False)
        assert job.status == "failed"
        found = keys(job)
        assert {name: key.status for name, key in found.items()} == {"classify": "failed", "reply": "succeeded"}
        assert found["reply"].model_id in house.host.loaded
        assert job.error is not None
        assert (job.error["code"], job.error["step"], job.error["category"]) == ("rows_too_long", "train", "user")
        assert f"LM student, predictor `classify` ({found['classify'].id}): A row is too long." in job.error["message"]
        assert "The models of the other 1 are kept." in job.error["message"]

    def test_the_failure_is_told_when_it_happens_and_the_end_comes_last(self, house: House) -> None:
        picky(house)
        job = house.compile(rows(9), multitask=False)
        with unit_of_work() as s:
            told = [(event.type, (event.data or {}).get("fine_tuning_job")) for event in events.after(s, job.id, 0)]
        assert ("log", keys(job)["classify"].id) in told
        assert told[-1] == ("done", None)
        assert [kind for kind, _ in told].count("done") == 1

    @pytest.mark.slow
    def test_when_all_fail_all_are_named(self, house: House) -> None:
        picky(house).refuses = "Message"
        job = house.compile(rows(9), multitask=False)
        assert job.error is not None
        assert job.error["message"].startswith("2 of 2 fine-tune jobs failed.")
        assert all(key.id in job.error["message"] for key in keys(job).values())


class TestRetry:
    def test_trains_only_the_key_that_failed_and_asks_the_teacher_nothing(self, house: House) -> None:
        trainer = picky(house)
        failed = house.compile(rows(12), valset=rows(6), multitask=False)
        before, calls = keys(failed), len(house.teacher.calls)
        trainer.refuses = ""
        job = retry(house, failed)
        assert job.status == "succeeded", job.error
        assert (job.round, job.error) == (2, None)
        assert len(trainer.jobs) == 2
        after = keys(job)
        assert after["reply"].model_id == before["reply"].model_id
        assert (after["classify"].status, after["classify"].error) == ("succeeded", None)
        assert len(house.teacher.calls) == calls
        assert job.evaluation is not None
        assert job.evaluation["compiled"]["score"] == 1.0

    @pytest.mark.slow
    def test_of_two_failed_keys_one_may_be_retried_alone_and_the_other_is_named_again(self, house: House) -> None:
        trainer = picky(house)
        trainer.refuses = "Message"
        failed = house.compile(rows(9), multitask=False)
        trainer.refuses = ""
        job = retry(house, failed, keys(failed)["reply"].id)
        assert job.status == "failed"
        assert len(trainer.jobs) == 1
        assert {name: key.status for name, key in keys(job).items()} == {"classify": "failed", "reply": "succeeded"}
        assert job.error is not None
        assert keys(job)["classify"].id in job.error["message"]
        assert keys(job)["reply"].id not in job.error["message"]
        assert retry(house, job).status == "succeeded"

    @pytest.mark.slow
    def test_a_key_that_has_not_failed_is_refused_and_nothing_changes(self, house: House) -> None:
        picky(house)
        failed = house.compile(rows(9), multitask=False)
        with pytest.raises(Invalid) as refusal:
            retry(house, failed, keys(failed)["reply"].id)
        assert refusal.value.param == "fine_tuning_job"
        assert keys(failed)["classify"].id in refusal.value.message
        assert house.job(failed.id).round == 1

    def test_only_a_failed_job_is_retried(self, house: House) -> None:
        job = house.compile(rows(6))
        with pytest.raises(Conflict):
            retry(house, job)

    @pytest.mark.slow
    def test_a_teacher_that_answered_nothing_is_asked_again(self, house: House) -> None:
        house.teacher.answer = lambda ask: Fail(401, "invalid_api_key", "wrong key")
        failed = house.compile(rows(6), valset=rows(3))
        assert failed.status == "failed"
        house.teacher.answer = knows
        job = retry(house, failed)
        assert job.status == "succeeded", job.error
        assert job.evaluation is not None
        assert job.evaluation["n"] == 3

    def test_bootstrap_is_done_anew_when_its_outcome_was_the_reason(self, house: House) -> None:
        house.teacher.answer = lambda ask: "no field here"
        failed = house.compile(rows(6), rollouts={"n": 1})
        assert failed.error is not None
        assert failed.error["step"] == "bootstrap"
        with unit_of_work() as s:
            # As if what was stored had never been: those answers are facts, and would only be read again.
            s.execute(text("DELETE FROM scores"))
            s.execute(text("DELETE FROM traces"))
        house.teacher.answer = knows
        assert retry(house, failed).status == "succeeded"

    def test_a_model_that_could_not_be_loaded_is_loaded_again(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(name: str, folder: Path) -> None:
            raise HostRefused(400, "no room")

        with monkeypatch.context() as patch:
            patch.setattr(house.host, "load", refuse)
            failed = house.compile(rows(9), valset=rows(3))
        assert failed.error is not None
        assert failed.error["code"] == "model_not_loaded"
        job = retry(house, failed)
        assert job.status == "succeeded", job.error
        assert job.evaluation is not None
        assert job.evaluation["compiled"]["score"] == 1.0
