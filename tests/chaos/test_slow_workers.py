"""Workers and dispatchers that die, and rows that a holder left behind: no job is lost, and none waits for ever."""

import pytest

from tests.chaos import faults
from tests.chaos.jobs import UNMEASURED, body, brief, odd, teach
from tests.chaos.world import World
from tests.support.scripted_lm import Hang
from tests.support.server_process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_06_what_loses_three_workers_is_poison_and_other_jobs_are_not_harmed(world: World) -> None:
    """It gets nowhere, and each worker that has it dies."""
    held = "SELECT 1 FROM work_items WHERE job_id = %s AND step = 'bootstrap' AND status = 'leased' AND losses = %s"
    other = world.submit(brief("bystander", 8))
    world.lm.answer = lambda ask: Hang() if "Odd poison" in ask.text else teach(ask)
    poison = world.submit(body(odd("poison", 6), **UNMEASURED))
    for number in range(3):
        wait_until(lambda number=number: world.query(held, poison, number) != [], f"nobody has it after {number} losses")  # type: ignore[misc]
        world.wait_over([other] if number else [])
        faults.kill(world, world.wait_held(poison, "bootstrap"))
    world.wait_over([poison])
    assert world.failure(poison) == ("failed", "poison")
    assert world.status(other) == "succeeded"


def test_19_dispatcher_that_dies_between_sending_and_marking_sends_again(world: World) -> None:
    job = world.submit(brief("dispatcher", 8))
    faults.die_at(world, "dispatcher.sent")
    world.wait_over([job])
    assert world.status(job) == "succeeded"
    claims = "SELECT item_id, count(*) FROM chaos.audit WHERE job_id = %s AND became = 'leased' GROUP BY 1 HAVING count(*) > 1"
    assert world.query(claims, job) == []
    wait_until(lambda: world.query("SELECT 1 FROM outbox WHERE sent_at IS NULL") == [], "a hint waits to be sent")


def test_23_items_that_somebody_leased_and_never_began_are_ended(world: World) -> None:
    """Whether their job is to go on, to be cancelled or to pause: none waits for ever for a holder that is not there."""
    leased = """UPDATE work_items SET status = 'leased', fence = fence + 1, attempts = attempts + 1, width = 1, lease_owner = 'gone-1-x',
                started_at = clock_timestamp(), lease_expires_at = clock_timestamp() + interval '1 hour' WHERE job_id = %s RETURNING id"""
    lapsed = "UPDATE work_items SET lease_expires_at = clock_timestamp() WHERE job_id = ANY (%s) RETURNING id"
    jobs = {asked: world.submit(brief(f"stuck {asked}", auto_start=False)) for asked in ("", "cancel", "pause")}
    for asked, job in jobs.items():
        assert len(world.query(leased, job)) == 1
        assert world.ask(job, "start") == 200
        assert not asked or world.ask(job, asked) == 200
        assert world.status(job) == "queued"
    world.query(lapsed, list(jobs.values()))
    wait_until(lambda: world.status(jobs["pause"]) == "paused", "it is not paused")
    assert world.ask(jobs["pause"], "resume") == 200
    world.wait_over(list(jobs.values()))
    assert [world.status(job) for job in jobs.values()] == ["succeeded", "cancelled", "succeeded"]
