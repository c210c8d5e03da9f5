"""What ends a training early, on real processes: it goes on from its newest whole checkpoint, and its model is published once."""

import signal
import time

import pytest

from tests.chaos import faults, shortages, trainings
from tests.chaos.world import World
from tests.support.server_process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DRAIN_GOAL_SECONDS = 120
LIMIT_SECONDS = 604_800
"""Of a training, by the settings."""


def test_03_10_killed_trainer_and_drained_worker_cost_one_attempt_and_none(world: World) -> None:
    """The same training twice: first its trainer is killed, then its worker is told to leave."""
    job = trainings.submit(world, "killed and drained")
    trainings.wait_checkpoint(world, job)
    for trainer in faults.without_guards(faults.trainers(world)):
        faults.kill_child(world, trainer)
    wait_until(lambda: trainings.resumed_at(world, job) != [], "nobody goes on")
    (first,) = trainings.resumed_at(world, job)
    worker = trainings.wait_checkpoint(world, job, beyond=first)
    told = trainings.item(world, job)
    began = time.monotonic()
    faults.kill(world, worker, signal.SIGTERM)
    took = time.monotonic() - began
    world.wait_over([job])
    print(f"a worker that trained was gone {took:.1f} s after SIGTERM")
    assert world.status(job) == "succeeded"
    assert [said for said in world.told(job, "warning") if said.startswith("Will try again: The trainer was killed by signal 9")]
    assert took <= DRAIN_GOAL_SECONDS
    _, second = trainings.resumed_at(world, job)
    assert second > (told.checkpoint_step or 0), "it wrote no last checkpoint when it was told to leave"
    after = trainings.item(world, job)
    assert (told.attempts, after.attempts, after.losses) == (2, 2, 0)


def test_09_training_beyond_its_limit_is_ended_with_all_its_processes(world: World) -> None:
    with faults.teacher_silent(world):
        job = trainings.submit(world, "too long")
        used_up = "UPDATE fine_tune_jobs SET trained_seconds = %s WHERE job_id = %s RETURNING id"
        wait_until(lambda: world.query(used_up, LIMIT_SECONDS - 0.1, job) != [], "there is no fine-tune job")
    world.wait_over([job])
    assert world.failure(job) == ("failed", "deadline")
    wait_until(lambda: faults.trainers(world) == [], "a trainer outlived its limit")
    assert world.query("SELECT id FROM models WHERE job_id = %s", job) == []


def test_24_64_death_after_training_leaves_one_model_from_the_newest_whole_checkpoint(world: World) -> None:
    """Ours: the trainings of a service of somebody else are not there yet. The newest checkpoint was cut short when the worker died."""
    with faults.death_at(world, "train.before_publish"):
        job = trainings.submit(world, "unpublished")
    (newest, digest), (older, _) = trainings.checkpoints(world, job)
    with faults.damaged(world, digest, lambda whole: whole[:-1]):
        wait_until(lambda: trainings.resumed_at(world, job) != [], "nobody goes on")
    world.wait_over([job])
    assert world.status(job) == "succeeded"
    assert trainings.resumed_at(world, job) == [older]
    assert [said for said in world.told(job, "warning") if f"at training step {newest} is left out" in said]
    assert world.query("SELECT count(*) FROM models WHERE job_id = %s", job) == [(1,)]


def test_03_trainer_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(world: World) -> None:
    job = trainings.submit(world, "killed at a checkpoint")
    trainings.wait_checkpoint(world, job)
    torn = shortages.kill_trainer_at_checkpoint(world, 120)
    assert torn is not None, "no checkpoint was seen half written"
    wait_until(lambda: trainings.resumed_at(world, job) != [], "nobody goes on")
    assert 0 < trainings.resumed_at(world, job)[0] < torn
    world.wait_over([job])
    assert world.status(job) == "succeeded"
    assert world.query("SELECT count(*) FROM models WHERE job_id = %s", job) == [(1,)]
    assert world.query("SELECT count(*) FROM artifacts WHERE job_id = %s", job) == [(1,)]
    assert list((world.home / "work").rglob(".step-*")) == []
