"""With the real trainer on a tiny model."""

import json
import threading
from pathlib import Path

import pytest

from distill.db import unit_of_work
from distill.execute import train_folder
from distill.jobs import events, repository
from distill.jobs.models import Job
from distill.trainers.local import LocalTrainer
from tests.integration.execute.house import House, rows
from tests.support.scripted_lm import ScriptedLM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LONG = {"n_epochs": 150, "batch_size": 4, "learning_rate": 0.001, "lora_r": 4}


@pytest.fixture
def trainer(tiny_model: Path) -> LocalTrainer:
    return LocalTrainer(extra_environment={"OMP_NUM_THREADS": "1", "STILLHOUSE_MODELS": str(tiny_model.parent)})


class TestTrainer:
    def test_a_drained_worker_leaves_a_checkpoint_and_the_next_goes_on_from_it(
        self, database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM, trainer: LocalTrainer, tiny_model: Path
    ) -> None:
        with House(tmp_path, teacher, student, trainer=trainer, base_model=f"local/{tiny_model.name}") as house:
            job_id = house.submit(rows(12), train_options=LONG)
            drain_once_training(house, job_id)
            house.run(job_id, seconds=150, until=lambda job: house.shift.is_over)
            (key,) = keys(job_id)
            left = train_folder.newest(tmp_path / "work" / "train" / key)
            assert left is not None

            house.close()
            house.open()
            job = house.run(job_id, seconds=200)
            assert job.status == "succeeded", job.error
            assert steps_of_curve(house, job)[0] == 1
            assert steps_of_curve(house, job) == sorted(set(steps_of_curve(house, job)))
            assert attempts(job_id) == 1


def keys(job_id: str) -> list[str]:
    with unit_of_work() as s:
        return [row.id for row in repository.fine_tune_jobs(s, job_id)]


def attempts(job_id: str) -> int:
    """Attempts that count; a drain costs none."""
    with unit_of_work() as s:
        return repository.items(s, job_id, "train")[0].attempts


def steps_of_curve(house: House, job: Job) -> list[int]:
    with unit_of_work() as s:
        (row,) = repository.fine_tune_jobs(s, job.id)
    assert row.curve is not None
    return [json.loads(line)["step"] for line in house.store.read(row.curve).splitlines()]


def drain_once_training(house: House, job_id: str) -> None:
    """Stop the shift as soon as a training step has been made."""

    def watch() -> None:
        pause = threading.Event()
        while not pause.wait(0.1):
            with unit_of_work() as s:
                if any(event.type == "train.curve" for event in events.after(s, job_id, 0)):
                    house.shift.stop()
                    return

    threading.Thread(target=watch, daemon=True).start()
