"""Trainings of the tiny model that are long enough to be hurt: each has rows of its own, so that none is reused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.chaos.jobs import UNMEASURED, body, sure
from tests.chaos.world import World
from tests.support.server_process import wait_until

LONG: dict[str, Any] = {"n_epochs": 48, "batch_size": 4, "learning_rate": 0.001, "lora_r": 4}
ROWS = 32


@dataclass(frozen=True)
class TrainItem:
    """The one work item of a training, and its key."""

    attempts: int
    losses: int
    checkpoint_step: int | None


def submit(world: World, name: str) -> str:
    """A job that teaches, trains and is over; its id."""
    return world.submit(body(sure(name, ROWS), **UNMEASURED, train_options=LONG), what=f"training {name}")


def item(world: World, job: str) -> TrainItem:
    (row,) = world.query(
        """SELECT i.attempts, i.losses, f.checkpoint_step
             FROM work_items i JOIN fine_tune_jobs f ON f.id = i.fine_tune_job_id WHERE i.job_id = %s AND i.step = 'train'""",
        job,
    )
    return TrainItem(*row)


def wait_checkpoint(world: World, job: str, beyond: int = 0) -> str:
    """Until the training has a checkpoint beyond this training step; the name of the worker that trains it."""
    worker = world.wait_held(job, "train")
    wait_until(lambda: (item(world, job).checkpoint_step or 0) > beyond, f"no checkpoint of {job} beyond step {beyond}")
    return worker


def resumed_at(world: World, job: str) -> list[int]:
    """The training steps of the checkpoints that it went on from, in order."""
    return [int(said.rsplit(" ", 1)[1]) for said in world.told(job, "log") if "goes on from its checkpoint" in said]


def checkpoints(world: World, job: str) -> list[tuple[int, str]]:
    """Step of each checkpoint that is kept, and the digest of one of its files; the newest first."""
    return world.query(
        """SELECT c.step, (SELECT value->>'digest' FROM json_each(c.files) ORDER BY key DESC LIMIT 1)
             FROM checkpoints c JOIN fine_tune_jobs f ON f.id = c.fine_tune_job_id WHERE f.job_id = %s ORDER BY c.step DESC""",
        job,
    )
