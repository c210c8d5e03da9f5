"""Checkpoints that any worker may go on from, and how a training that ends badly is judged. The trainer is scripted, all else is real."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from distill.db import unit_of_work
from distill.errors import LostLease
from distill.execute import checkpoints as copies
from distill.jobs import checkpoints, claims, collecting, events, pausing, repository, retrying, service
from distill.jobs.models import FineTuneJob, Job
from distill.settings import TimerSettings, get_settings
from distill.trainers.base import TrainCallbacks, Training, TrainOutcome, TrainRequest
from tests.integration.core.world import execute
from tests.integration.execute.house import House, PretendTrainer, PretendTraining, rows
from workers.dispatcher import Dispatcher

KILLED = TrainOutcome("killed", signal=9, log_tail="step 30\n")


@dataclass
class Attempt:
    """What one trainer writes, and how it ends (None: it succeeds), once its checkpoints are published and `then` has happened."""

    steps: tuple[int, ...] = ()
    outcome: TrainOutcome | None = None
    then: Callable[[], object] = field(default=lambda: None)


@dataclass
class ScriptedTrainer(PretendTrainer):
    """Plays its attempts in turn; afterwards it succeeds. `found` holds, for each, the files of the checkpoint it was to go on from."""

    attempts: list[Attempt] = field(default_factory=list)
    requests: list[TrainRequest] = field(default_factory=list)
    found: list[dict[str, str] | None] = field(default_factory=list)

    def start(self, request: TrainRequest, callbacks: TrainCallbacks) -> Training:
        resume_from = json.loads((request.folder / "job.json").read_text())["resume_from"]
        place = resume_from and request.folder / resume_from
        self.found.append({file.name: file.read_text() for file in place.iterdir() if file.name != "manifest.json"} if place else None)
        self.requests.append(request)
        attempt = self.attempts.pop(0) if self.attempts else Attempt()
        for step in attempt.steps:
            write_checkpoint(request.folder / "checkpoints" / f"step-{step}", step)
        if attempt.outcome is None:
            return super().start(request, callbacks)
        (request.folder / "log.txt").write_text(attempt.outcome.log_tail)
        return CheckpointingTraining(attempt, attempt.outcome, request.folder, callbacks)


class CheckpointingTraining(PretendTraining):
    """Tells of one checkpoint at each look, and ends at the look after the last."""

    def __init__(self, attempt: Attempt, outcome: TrainOutcome, folder: Path, callbacks: TrainCallbacks) -> None:
        super().__init__(outcome)
        self._places = [folder / "checkpoints" / f"step-{step}" for step in attempt.steps]
        self._then = attempt.then
        self._callbacks = callbacks

    def wait(self, timeout: float | None = None) -> TrainOutcome | None:
        if not self._places:
            self._then()
            return self._outcome
        self._callbacks.on_checkpoint(self._places.pop(0))
        return None


def write_checkpoint(place: Path, step: int) -> None:
    place.mkdir(parents=True)
    (place / "state.json").write_text(f"step {step}")
    (place / "weights.safetensors").write_text(f"weights {step}")
    facts = {
        name: {"digest": "sha256:" + hashlib.sha256((place / name).read_bytes()).hexdigest(), "size_bytes": (place / name).stat().st_size}
        for name in ("state.json", "weights.safetensors")
    }
    (place / "manifest.json").write_text(json.dumps({"files": facts}))


def files_of(step: int) -> dict[str, str]:
    return {"state.json": f"step {step}", "weights.safetensors": f"weights {step}"}


@pytest.fixture
def trainer(house: House, monkeypatch: pytest.MonkeyPatch) -> ScriptedTrainer:
    """In the house of the test, where a second attempt follows at once."""
    monkeypatch.setenv("STILLHOUSE_TIMERS__RETRY_BASE_SECONDS", "0.01")
    get_settings.cache_clear()
    trainer = ScriptedTrainer()
    house.trainer = trainer
    reopened(house)
    return trainer


def reopened(house: House) -> House:
    """Its worker was restarted."""
    house.close()
    house.open()
    return house


def key_of(job: Job | str) -> FineTuneJob:
    with unit_of_work() as s:
        (key,) = repository.fine_tune_jobs(s, job if isinstance(job, str) else job.id)
        s.expunge(key)
        return key


def stored(key: FineTuneJob) -> list[int]:
    """The steps of the checkpoints that are pointed at, the newest first."""
    with unit_of_work() as s:
        return [one.step for one in checkpoints.newest_first(s, key.id)]


def told(job: Job, kind: str) -> list[str]:
    with unit_of_work() as s:
        return [event.message for event in events.after(s, job.id, 0) if event.type == kind]


def harm(house: House, key: FineTuneJob, step: int, name: str, change: Callable[[Path], object]) -> None:
    with unit_of_work() as s:
        (one,) = [one for one in checkpoints.newest_first(s, key.id) if one.step == step]
        place = house.store.path(one.files[name]["digest"])
    place.chmod(0o600)
    change(place)


class TestGoingOn:
    def test_any_worker_goes_on_from_the_newest_checkpoint_that_is_whole(
        self, house: House, trainer: ScriptedTrainer, tmp_path: Path
    ) -> None:
        def drained(*steps: int) -> Attempt:
            return Attempt(steps, KILLED, then=lambda: house.shift.stop())

        trainer.attempts = [drained(10, 20, 30), drained(40), drained()]
        job_id = house.submit(rows(12))
        house.run(job_id, until=lambda _: house.shift.is_over)
        key = key_of(job_id)
        assert stored(key) == [30, 20]
        assert key.checkpoint_step == 30

        house.folder = tmp_path / "another machine"  # of the old one only the blob store is left
        reopened(house).run(job_id, until=lambda _: house.shift.is_over)
        assert trainer.found[1] == files_of(30)
        assert trainer.requests[1].folder.is_relative_to(house.folder)
        assert stored(key) == [40, 30]

        harm(house, key, 40, "state.json", lambda place: place.write_text("step"))
        reopened(house).run(job_id, until=lambda _: house.shift.is_over)
        assert trainer.found[2] == files_of(30)
        assert stored(key) == [30]

        harm(house, key, 30, "weights.safetensors", lambda place: place.unlink())
        job = reopened(house).run(job_id)
        assert job.status == "succeeded", job.error
        assert trainer.found[3] is None
        assert stored(key) == []
        warnings = [message for message in told(job, "warning") if "left out" in message]
        assert [message.split(" is left out")[0] for message in warnings] == [
            "The checkpoint at training step 40",
            "The checkpoint at training step 30",
        ]
        assert not list(house.folder.glob("work/train/*/*"))
        with unit_of_work() as s:
            assert [item.attempts for item in repository.items(s, job_id, "train")] == [1]

    def test_one_that_the_trainer_refuses_is_left_out_for_the_one_before(self, house: House, trainer: ScriptedTrainer) -> None:
        refusal = {"code": "checkpoint_mismatch", "message": "It is of another base model.", "param": "resume_from"}
        refused = Attempt((), TrainOutcome("bad_input", 2, error=refusal))
        trainer.attempts = [Attempt((10, 20), KILLED), refused]
        job = house.compile(rows(12))
        assert job.status == "succeeded", job.error
        assert trainer.found[1:] == [files_of(20), files_of(10)]
        assert "The checkpoint at training step 20 is left out: It is of another base model." in told(job, "warning")

    def test_a_cancelled_job_keeps_none_and_a_failed_one_keeps_them_for_its_retry(self, house: House, trainer: ScriptedTrainer) -> None:
        trainer.attempts = [Attempt((10,), TrainOutcome("out_of_memory", 4, error={"message": "No room."}))]
        job_id = house.submit(rows(12))
        job = house.run(job_id)
        key = key_of(job)
        assert job.status == "failed"
        assert stored(key) == [10]

        def cancel() -> None:
            with unit_of_work() as s:
                service.cancel(s, house.project_id, job_id)

        trainer.attempts = [Attempt((20,), KILLED, then=cancel)]
        with unit_of_work() as s:
            retrying.retry(s, house.project_id, job_id)
        assert house.run(job_id).status == "cancelled"
        assert trainer.found[1] == files_of(10)
        assert stored(key) == []


class TestAge:
    def test_a_failed_job_keeps_them_for_a_week(self, house: House, trainer: ScriptedTrainer) -> None:
        trainer.attempts = [Attempt((10, 20), TrainOutcome("out_of_memory", 4, error={"message": "No room."}))]
        job_id = house.submit(rows(12))
        key = key_of(house.run(job_id))
        for days, kept in ((6, [20, 10]), (8, [])):
            execute(f"UPDATE jobs SET finished_at = clock_timestamp() - interval '{days} days'")
            Dispatcher(TimerSettings(), send=lambda _queue: None).reap()
            assert stored(key) == kept, days
        assert key_of(job_id).checkpoint_step is None, "a retry would have to come further than this before it counted as progress"
        assert collecting.collect(house.store, 0, 0, threading.Event()) is not None
        with unit_of_work() as s:
            retrying.retry(s, house.project_id, job_id)
        assert house.run(job_id).status == "succeeded"
        assert trainer.found[1] is None, "it was trained from the beginning"

    def test_a_job_that_goes_on_keeps_them_however_old(self, house: House, trainer: ScriptedTrainer) -> None:
        trainer.attempts = [Attempt((10,), TrainOutcome("out_of_memory", 4, error={"message": "No room."}))]
        job_id = house.submit(rows(12))
        key = key_of(house.run(job_id))
        with unit_of_work() as s:
            retrying.retry(s, house.project_id, job_id)
            pausing.pause(s, house.project_id, job_id)
        execute("UPDATE jobs SET created_at = clock_timestamp() - interval '1 year'")
        Dispatcher(TimerSettings(), send=lambda _queue: None).reap()
        assert stored(key) == [10]


class TestPublishing:
    def test_what_was_written_half_or_by_a_stale_lease_is_not_pointed_at(
        self, house: House, trainer: ScriptedTrainer, tmp_path: Path
    ) -> None:
        trainer.attempts = [Attempt((10,), TrainOutcome("out_of_memory", 4, error={"message": "No room."}))]
        job = house.compile(rows(12))
        key = key_of(job)
        with unit_of_work() as s:
            retrying.retry(s, house.project_id, job.id)
        with unit_of_work() as s:
            claim = claims.claim(s, "train", house.worker)
        assert claim is not None
        place = tmp_path / "step-20"
        write_checkpoint(place, 20)
        (place / "weights.safetensors").write_text("weig")
        assert not copies.publish(claim, house.store, place)
        (place / "weights.safetensors").write_text("weights 20")
        with unit_of_work() as s:
            s.execute(text("UPDATE work_items SET fence = fence + 1 WHERE id = :id"), {"id": claim.item_id})
        with pytest.raises(LostLease):
            copies.publish(claim, house.store, place)
        assert stored(key) == [10]
        assert copies.publish(replace(claim, fence=claim.fence + 1), house.store, place)
        assert stored(key) == [20, 10]


class TestHowItEnds:
    @pytest.mark.parametrize(
        ("outcome", "code", "said"),
        [
            (TrainOutcome("out_of_memory", 4, error={"message": "It had 3 GiB."}), "out_of_memory", "It had 3 GiB. Shorter rows"),
            (TrainOutcome("deadline", 3), "deadline", "was trained for longer than 604800 s ([timers] max_training_seconds)"),
        ],
    )
    def test_what_would_end_so_again_is_not_tried_again(
        self, house: House, trainer: ScriptedTrainer, outcome: TrainOutcome, code: str, said: str
    ) -> None:
        trainer.attempts = [Attempt((10,), outcome)]
        job = house.compile(rows(12))
        assert job.status == "failed"
        error: dict[str, Any] = job.error or {}
        assert error["code"] == code
        assert said in error["message"]
        assert error["retryable"]
        assert len(trainer.found) == 1

    def test_what_may_go_better_is_tried_again_and_the_log_says_why(self, house: House, trainer: ScriptedTrainer) -> None:
        trainer.attempts = [Attempt((), TrainOutcome("stalled", signal=9, log_tail="all reduce")), Attempt((), KILLED)]
        job = house.compile(rows(12))
        assert job.status == "succeeded", job.error
        assert told(job, "warning")[-2:] == [
            "Will try again: The trainer told no progress for 1800 s and was ended: all reduce",
            "Will try again: The trainer was killed by signal 9: step 30",
        ]
        assert [request.stall_seconds for request in trainer.requests] == [1800, 1800, 1800]
        left = [request.max_seconds or 0.0 for request in trainer.requests]
        assert 604_800 >= left[0] > left[1] > left[2] > 604_000
