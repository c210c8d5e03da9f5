"""A job's deadline: nothing is claimed after it, what runs lets go, and the job waits for another one."""

import time

import pytest

from distill.db import unit_of_work
from distill.errors import Conflict
from distill.jobs import claims, editing, pausing
from distill.jobs.claims import BeatReply
from distill.jobs.editing import Changes
from distill.jobs.models import Job
from distill.settings import TimerSettings
from tests.integration.core.test_pausing import release, resume
from tests.integration.core.world import World, cancel, claim, execute, job, pause, taken
from workers.dispatcher import Dispatcher


def late(world: World) -> str:
    """A job whose deadline has just passed."""
    job_id = world.submit(budget={"deadline": int(time.time()) + 3600})
    pass_deadline(job_id)
    return job_id


def pass_deadline(job_id: str) -> None:
    execute("UPDATE jobs SET deadline = clock_timestamp() WHERE id = :id", id=job_id)


def reap() -> None:
    Dispatcher(TimerSettings(), send=lambda queue: None).reap()


def give_time(world: World, job_id: str) -> Job:
    with unit_of_work() as s:
        return editing.edit(s, world.project_id, job_id, Changes(limits={"deadline": int(time.time()) + 3600}))


class TestDeadline:
    def test_a_job_before_its_deadline_is_worked_on(self, world: World) -> None:
        job_id = world.submit(budget={"deadline": int(time.time()) + 3600})
        reap()
        assert job(job_id).status == "queued"
        assert taken().job_id == job_id

    def test_after_it_nothing_is_claimed_and_the_job_pauses(self, world: World) -> None:
        job_id = late(world)
        assert claim() is None
        reap()
        row = job(job_id)
        assert (row.status, row.pause_reason and row.pause_reason["code"]) == ("paused", "deadline_passed")
        assert row.pause_reason is not None
        assert row.pause_reason["message"].startswith("The deadline has passed. Set budget.deadline later with PATCH /v1/compile_jobs/")

    def test_who_holds_an_item_hears_of_it_at_the_next_beat(self, world: World) -> None:
        job_id = world.submit()
        held = taken()
        pass_deadline(job_id)
        with unit_of_work() as s:
            assert claims.beat(s, held) == BeatReply(lost=False, cancel=False, pause=True)
        reap()
        assert job(job_id).status == "running"
        release(held)
        assert job(job_id).status == "paused"

    def test_it_goes_on_with_a_later_deadline_alone(self, world: World) -> None:
        job_id = late(world)
        reap()
        with pytest.raises(Conflict) as refused:
            resume(world, job_id)
        assert (refused.value.code, refused.value.param) == ("deadline_passed", "budget.deadline")
        give_time(world, job_id)
        assert resume(world, job_id).status == "queued"
        assert taken().job_id == job_id

    def test_a_job_that_somebody_paused_before_is_not_resumed_into_it_either(self, world: World) -> None:
        job_id = world.submit()
        pause(world, job_id)
        pass_deadline(job_id)
        with pytest.raises(Conflict, match="The deadline has passed"):
            resume(world, job_id)

    def test_a_job_that_is_over_or_being_cancelled_stays_what_it_is(self, world: World) -> None:
        over, leaving = world.submit(), world.submit()
        cancel(world, over)
        held = taken()
        cancel(world, leaving)
        for job_id in (over, leaving):
            pass_deadline(job_id)
        with unit_of_work() as s:
            assert pausing.stop_late(s) is None
        release(held)
        assert [job(job_id).status for job_id in (over, leaving)] == ["cancelled", "cancelled"]
