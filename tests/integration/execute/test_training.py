"""With the real trainer on a tiny model: a training that was broken off goes on and ends where an unbroken one ends."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from distill.catalog import artifacts
from distill.db import unit_of_work
from distill.jobs import events, repository
from distill.jobs.models import Job
from distill.settings import get_settings
from distill.storage import BlobStore
from distill.trainers.local import LocalTrainer
from tests.integration.execute.house import House, rows
from tests.support.s3 import S3Server
from tests.support.scripted_lm import ScriptedLM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LONG = {"n_epochs": 16, "batch_size": 4, "learning_rate": 0.001, "lora_r": 4}
ROWS = 40
"""Two predictors' rows of each: enough to keep some for validation."""
BREAK_AT = 60.0
"""Per cent of the training."""
TOLERANCE = 1e-3
"""Of the losses at the end, between a broken training and an unbroken one with the same seed."""


@dataclass(frozen=True)
class Ending:
    """What a training left that does not depend on how fast it was."""

    steps: int
    validation_loss: float
    """After the last training step; the best one may be of a step before the break."""
    loss: float
    curve_steps: list[int]


@dataclass
class Lab:
    """Houses with the same real trainer; each has a project of its own, so that none finds another's model."""

    folder: Path
    teacher: ScriptedLM
    student: ScriptedLM
    tiny_model: Path

    @contextmanager
    def house(self, project: str, bucket: BlobStore | None = None) -> Iterator[House]:
        extra = {"OMP_NUM_THREADS": "1", "STILLHOUSE_MODELS": str(self.tiny_model.parent)}
        trainer, model = LocalTrainer(extra_environment=extra), f"local/{self.tiny_model.name}"
        with House(self.folder, self.teacher, self.student, trainer, base_model=model, project=project, bucket=bucket) as house:
            yield house
        trainer.close()

    def unbroken(self, project: str, seed: int = 0) -> Ending:
        with self.house(project) as house:
            job = house.run(house.submit(rows(ROWS), train_options=LONG, seed=seed), seconds=200)
            return ending(house, job)


@pytest.fixture
def lab(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("STILLHOUSE_TIMERS__CHECKPOINT_SECONDS", "0.5")
    monkeypatch.setenv("STILLHOUSE_TIMERS__RETRY_BASE_SECONDS", "0.1")
    get_settings.cache_clear()
    return Lab(tmp_path, teacher, student, tiny_model)


class TestBrokenOff:
    def test_a_killed_trainer_and_a_drained_worker_cost_nothing_but_time(self, lab: Lab, tmp_path: Path) -> None:
        whole = lab.unbroken("whole")
        killed = self.killed(lab)
        drained = self.drained(lab, tmp_path)
        for name, broken in (("killed", killed), ("drained", drained)):
            apart = abs(broken.validation_loss - whole.validation_loss)
            print(f"{name}: validation loss {broken.validation_loss:.6f}, unbroken {whole.validation_loss:.6f}, {apart:.1e} apart")
            assert apart <= TOLERANCE
            assert abs(broken.loss - whole.loss) <= TOLERANCE
            assert broken.steps == whole.steps
            assert broken.curve_steps == whole.curve_steps == list(range(1, whole.steps + 1))

    def killed(self, lab: Lab) -> Ending:
        """`kill -9` of the trainer at 60 %: another attempt on the same worker goes on."""
        with lab.house("killed") as house:
            job_id = house.submit(rows(ROWS), train_options=LONG)
            with at_per_cent(job_id, BREAK_AT, lambda: trainer_of(house).send_signal(signal.SIGKILL)):
                job = house.run(job_id, seconds=200)
            assert [event for event in told(job_id, "warning") if "The trainer was killed by signal 9" in event]
            assert resumed_at(job_id) > 0
            return ending(house, job)

    def drained(self, lab: Lab, tmp_path: Path) -> Ending:
        """SIGTERM at 60 %: a worker with an empty work folder goes on, and no attempt is spent."""
        with lab.house("drained") as house:
            job_id = house.submit(rows(ROWS), train_options=LONG)
            with at_per_cent(job_id, BREAK_AT, house.shift.stop):
                house.run(job_id, seconds=200, until=lambda job: house.shift.is_over)
            house.close()
            house.folder = tmp_path / "another machine"
            house.open()
            job = house.run(job_id, seconds=200)
            with unit_of_work() as s:
                assert [item.attempts for item in repository.items(s, job_id, "train")] == [1]
            assert resumed_at(job_id) > 0
            return ending(house, job)


class TestBucket:
    def test_a_whole_job_goes_on_from_a_checkpoint_in_a_bucket_on_another_machine(self, lab: Lab, s3: S3Server, tmp_path: Path) -> None:
        """Validate to package; the worker that trains is drained, and one with nothing on its disk goes on."""
        place = s3.settings()
        with lab.house("bucket", s3.store(place, tmp_path / "cache")) as house:
            job_id = house.submit(rows(ROWS), train_options={**LONG, "n_epochs": 8})
            with at_per_cent(job_id, BREAK_AT, house.shift.stop):
                house.run(job_id, seconds=200, until=lambda job: house.shift.is_over)
            house.close()
            house.folder, house.store = tmp_path / "another machine", s3.store(place, tmp_path / "another cache")
            house.open()
            job = house.run(job_id, seconds=200)
            assert resumed_at(job_id) > 0
            assert ending(house, job).steps > resumed_at(job_id)
            with unit_of_work() as s:
                artifact = artifacts.of_job(s, job_id)
        assert artifact is not None
        third = s3.store(place, tmp_path / "a third cache")
        assert [third.read(entry["digest"])[:0] for entry in artifact.files.values()]
        assert not (tmp_path / "blobs").exists()


@contextmanager
def at_per_cent(job_id: str, percent: float, act: Callable[[], object]) -> Iterator[None]:
    """While the block runs, `act` once when the training has got so far."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if progress(job_id) >= percent:
                act()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join()


def progress(job_id: str) -> float:
    with unit_of_work() as s:
        keys = repository.fine_tune_jobs(s, job_id)
        return float((keys[0].progress or {}).get("percent", 0.0)) if keys else 0.0


def trainer_of(house: House) -> psutil.Process:
    """The trainer itself, not the guard beside it."""
    commands = {each: _command_of(each) for each in psutil.Process().children(recursive=True)}
    return next(each for each, words in commands.items() if words[1:3] == ["-m", "engines.trainer"] and str(house.folder) in words[3])


def _command_of(process: psutil.Process) -> list[str]:
    """Nothing of one that has just ended."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def told(job_id: str, kind: str) -> list[str]:
    with unit_of_work() as s:
        return [event.message for event in events.after(s, job_id, 0) if event.type == kind]


def resumed_at(job_id: str) -> int:
    """The step of the checkpoint that the training went on from."""
    (said,) = [message for message in told(job_id, "log") if "goes on from its checkpoint" in message]
    return int(said.rsplit(" ", 1)[1])


def ending(house: House, job: Job) -> Ending:
    assert job.status == "succeeded", job.error
    with unit_of_work() as s:
        (key,) = repository.fine_tune_jobs(s, job.id)
    assert key.result is not None
    assert key.curve is not None
    curve = [json.loads(line) for line in house.store.read(key.curve).splitlines()]
    return Ending(key.result["steps"], curve[-1]["validation_loss"], curve[-1]["loss"], [line["step"] for line in curve])
