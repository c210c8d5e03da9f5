"""Clocks that jump by an hour, forward and back, in the middle of jobs: leases and ages are by the database's clock, so nothing happens."""

import os
import shutil
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from tests.chaos import clocks, trainings
from tests.chaos.homes import home
from tests.chaos.invariants import violations
from tests.chaos.jobs import anchors, body, brief
from tests.chaos.world import World
from tests.support.server_process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
HOUR = 3600
CLOCK = "clock"


@pytest.fixture
def world(tiny_model: Path) -> Iterator[World]:
    if shutil.which("faketime") is None:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say("faketime is not on PATH: install the package of this name, so that clocks that jump are tested")
    with home() as folder, World(folder, tiny_model.parent, latency=0.3, preloaded=clocks.preloaded(folder / CLOCK)) as opened:
        opened.wait_over([opened.submit(body(anchors()))])
        yield opened


def set_clocks(world: World, seconds: int) -> None:
    """Until the API says so: it stamps its replies."""
    clocks.jump(world.home / CLOCK, seconds)

    def is_set() -> bool:
        stamp = httpx.get(f"{world.stack.base_url}/livez").headers["date"]
        return abs(parsedate_to_datetime(stamp).timestamp() - time.time() - seconds) < 60

    wait_until(is_set, f"the clocks are not off by {seconds} s")


def test_41_clocks_that_jump_by_an_hour_cost_nothing(world: World) -> None:
    trained = trainings.submit(world, "beside a clock")
    jobs = [world.submit(brief(f"clock {n}", 24)) for n in range(2)]
    for number, seconds in enumerate((HOUR, -HOUR, 0)):
        world.wait_for_calls("Odd clock 0", 6 * (number + 1))
        set_clocks(world, seconds)
        jobs.append(world.submit(brief(f"after {seconds}", 4)))
        assert {world.look(jobs[0]) for _ in range(20)} == {200}
    trainings.wait_checkpoint(world, trained)
    set_clocks(world, HOUR)
    world.wait_over([trained, *jobs])
    assert {world.status(job) for job in (trained, *jobs)} == {"succeeded"}
    assert world.query("SELECT max(attempts), max(losses) FROM work_items WHERE job_id = ANY (%s)", [trained, *jobs]) == [(1, 0)]
    assert violations(world) == []
