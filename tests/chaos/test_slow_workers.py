"""Rows that a holder left behind: no job waits for ever."""

import pytest

from tests.chaos.jobs import brief
from tests.chaos.world import World
from tests.support.server_process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


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
