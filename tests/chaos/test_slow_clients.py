"""What callers ask too late: a job that is over stays so."""

import pytest

from tests.chaos import faults
from tests.chaos.jobs import brief
from tests.chaos.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_13_queued_job_is_cancelled_at_once_and_a_late_hint_finds_nothing(world: World) -> None:
    with faults.stalled(world, "worker-1"), faults.stalled(world, "worker-2"):
        job = world.submit(brief("cancel queued", 8))
        assert world.ask(job, "cancel") == 200
        assert world.status(job) == "cancelled"
        faults.send_hints(world, "rollouts", 3)
    after = world.submit(brief("after cancel", 2))
    world.wait_over([after])
    assert world.status(after) == "succeeded"
    assert world.calls_about("Odd cancel queued") == 0
    assert world.query("SELECT count(*) FROM chaos.audit WHERE job_id = %s AND became = 'leased'", job) == [(0,)]
