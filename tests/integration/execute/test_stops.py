"""Work that is told to stop: by a cancel, by the end of a shift, by the loss of its lease."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import text

from distill.catalog import row_facts
from distill.db import unit_of_work
from distill.execute.ports import jobs_over
from distill.jobs import events, repository, service
from distill.rollouts import Runner
from distill.trainers.base import TrainCallbacks, Training, TrainOutcome, TrainRequest
from tests.integration.execute.house import House, PretendTrainer, rows

ROWS = 40
ANSWERED = 12


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_TIMERS__BEAT_SECONDS", "0.1")


def once_asked(house: House, do: Callable[[], object]) -> threading.Thread:
    """Do something while calls of the first slice are in flight, which the teacher does not answer before the test says so."""
    house.teacher.hold_from = ANSWERED

    def wait() -> None:
        house.teacher.wait_for_calls(ANSWERED + 1, 60)
        do()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def take_away() -> None:
    """As the reaper and another worker's claim would."""
    with unit_of_work() as s:
        s.execute(text("UPDATE work_items SET fence = fence + 1 WHERE status = 'leased'"))
        s.execute(
            text("UPDATE work_items SET status = 'queued', width = 0, lease_owner = NULL, lease_expires_at = NULL WHERE status = 'leased'")
        )


class Robbed:
    """A training that goes on until it is stopped."""

    stopped = False

    def wait(self, timeout: float | None = None) -> TrainOutcome | None:
        return TrainOutcome("killed", None, signal=9) if self.stopped else None

    def stop(self, grace: float) -> None:
        self.stopped = True


@dataclass
class RobbedOnce(PretendTrainer):
    """Its first training has something to tell when its lease is gone."""

    robbed: Robbed = field(default_factory=Robbed)
    starts: int = 0

    def start(self, request: TrainRequest, callbacks: TrainCallbacks) -> Training:
        self.starts += 1
        if self.starts > 1:
            return super().start(request, callbacks)
        take_away()
        callbacks.on_curve({"step": 1, "epoch": 1.0, "loss": 9.0, "learning_rate": 0.1, "tokens_per_second": 9.0, "at": 0.0})
        return self.robbed


class TestCancel:
    def test_stops_at_the_next_beat_and_keeps_what_was_paid_for(self, house: House) -> None:
        job_id = house.submit(rows(ROWS), num_threads=2)

        def cancel() -> None:
            with unit_of_work() as s:
                service.cancel(s, house.project_id, job_id)

        asking = once_asked(house, cancel)
        job = house.run(job_id)
        asking.join(10)
        assert job.status == "cancelled"
        house.teacher.hold_from = None
        house.teacher.catch_up()
        paid = len(house.teacher.calls)
        assert paid < ROWS * 2
        with unit_of_work() as s:
            assert {item.status for item in repository.items(s, job_id, "bootstrap")} <= {"succeeded", "cancelled"}
        again = house.compile(rows(ROWS))
        assert again.status == "succeeded"
        assert len(house.teacher.calls) - paid <= ROWS * 2 - paid + 2 * 2

    def test_whose_warm_runners_are_to_end_is_known_without_any_of_its_items(self, house: House) -> None:
        cancelled, going_on = house.submit(rows(ROWS)), house.submit(rows(ROWS))
        with unit_of_work() as s:
            service.cancel(s, house.project_id, cancelled)
        assert jobs_over([cancelled, going_on, "no job"]) == {cancelled}


class TestDrain:
    def test_gives_the_slice_back_without_spending_an_attempt(self, house: House) -> None:
        job_id = house.submit(rows(ROWS), num_threads=2)
        asking = once_asked(house, lambda: house.shift.stop())
        house.run(job_id, until=lambda job: house.shift.is_over)
        asking.join(10)
        with unit_of_work() as s:
            assert {item.attempts for item in repository.items(s, job_id, "bootstrap") if item.status == "queued"} == {0}

        house.close()
        house.open()
        house.teacher.hold_from = None
        job = house.run(job_id)
        assert job.status == "succeeded", job.error
        assert len(house.teacher.calls) <= ROWS * 2 + 2 * 2 + 2


class TestLostLease:
    def test_a_worker_that_lost_its_lease_publishes_nothing_and_the_work_is_done_once(self, house: House) -> None:
        job_id = house.submit(rows(ROWS), num_threads=2)

        def rob() -> None:
            take_away()
            house.teacher.hold_from = None

        asking = once_asked(house, rob)
        job = house.run(job_id)
        asking.join(10)
        assert job.status == "succeeded", job.error
        with unit_of_work() as s:
            facts = row_facts.every(s, job_id, "rollout", "teacher:0")
            (step,) = [view for view in repository.steps(s, job_id) if view.name == "bootstrap"]
        assert len(facts) == ROWS
        assert (step.done, step.counts["ok"]) == (ROWS, ROWS)

    def test_what_a_training_tells_after_it_is_not_written(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        trainer = RobbedOnce()
        monkeypatch.setitem(house.ports.trainers, "local", trainer)
        job = house.compile(rows(6))
        assert job.status == "succeeded", job.error
        assert trainer.robbed.stopped
        with unit_of_work() as s:
            told = [event.data["loss"] for event in events.after(s, job.id, 0) if event.type == "train.curve" and event.data]
        assert told == [0.5]


class TestEndOfAJob:
    def test_no_process_of_its_program_stays(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        started: list[Runner] = []
        start = Runner.__init__

        def keep(runner: Runner, *given: Any) -> None:
            started.append(runner)
            start(runner, *given)

        monkeypatch.setattr(Runner, "__init__", keep)
        first = house.run(house.submit(rows(6)), until=lambda job: any(runner.alive for runner in started))
        assert house.run(first.id).status == "succeeded"
        assert started
        assert not any(runner.alive for runner in started)
