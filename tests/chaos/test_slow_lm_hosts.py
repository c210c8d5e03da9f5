"""A teacher that refuses: the job says so, waits, and pays for it with no attempt."""

import pytest

from tests.chaos import faults
from tests.chaos.jobs import brief
from tests.chaos.world import World
from tests.support.scripted_lm import Fail
from tests.support.server_process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
EXAMPLES = 12


def test_25_rate_limit_is_waited_out_and_told(world: World) -> None:
    with faults.teacher_trouble(world, Fail(429, retry_after=2)):
        job = world.submit(brief("limited", EXAMPLES))
        wait_until(lambda: "rate limited" in str(world.get(f"/v1/compile_jobs/{job}").json()["queue"]), "it does not say what it waits for")
    world.wait_over([job])
    assert world.status(job) == "succeeded"
    assert world.query("SELECT max(attempts), max(losses) FROM work_items WHERE job_id = %s", job) == [(1, 0)]
