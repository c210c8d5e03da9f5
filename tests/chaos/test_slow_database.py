"""PostgreSQL restarted, hanging, or cutting everybody off: no job fails, nothing is taken twice, nobody sees an error or waits for ever."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.chaos import faults
from tests.chaos.jobs import brief
from tests.chaos.world import World
from tests.support.server_process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
REQUESTS_A_SECOND = 20
SUBMITS = 12
CUTS = 6
GONE_SECONDS = 30
"""Ten by their code; the rest is for a loaded machine."""


@contextmanager
def reader(world: World, job: str) -> Iterator[list[int]]:
    """Twenty requests a second while the block runs; the statuses of their replies."""
    over, statuses = threading.Event(), []

    def ask() -> None:
        while not over.wait(1 / REQUESTS_A_SECOND):
            statuses.append(world.look(job))

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield statuses
        finally:
            over.set()
            asking.result()


def test_10_dispatcher_and_api_are_gone_soon_though_postgres_hangs(world: World) -> None:
    took: dict[str, float] = {}
    assert world.get("/v1/me").status_code == 200  # so that the API has a use of a key to write
    with faults.postgres_hangs(world):
        for part in ("dispatcher", "api"):
            began = time.monotonic()
            faults.kill(world, part, signal.SIGTERM)
            took[part] = round(time.monotonic() - began, 1)
    print(f"gone after SIGTERM: {took}")
    assert max(took.values()) < GONE_SECONDS


def test_37_restart_in_the_middle_of_submits_leaves_each_job_whole_and_once(world: World) -> None:
    """Whoever heard nothing asks again with the same key; the row was there as a whole, or not at all."""
    before = world.query("SELECT count(*) FROM jobs")[0][0]
    with ThreadPoolExecutor(SUBMITS) as pool:
        sent = [pool.submit(world.submit, brief(f"commit {n}", 1)) for n in range(SUBMITS)]
        wait_until(lambda: world.query("SELECT count(*) FROM jobs")[0][0] > before, "nothing is submitted")
        faults.restart_postgres(world)
        jobs = [each.result() for each in sent]
    assert len(set(jobs)) == SUBMITS
    assert world.query("SELECT count(*) FROM jobs") == [(before + SUBMITS,)]
    world.wait_over(jobs)
    assert {world.status(job) for job in jobs} == {"succeeded"}


def test_39_connections_that_are_cut_again_and_again_end_no_job(world: World) -> None:
    jobs = [world.submit(brief(f"cut {n}", 12)) for n in range(2)]
    with reader(world, jobs[0]) as statuses:
        for _ in range(CUTS):
            faults.terminate_backends(world)
            faults.pause(0.3)
            jobs.append(world.submit(brief(f"cut {len(jobs)}", 1)))
        world.wait_over(jobs)
    assert {world.status(job) for job in jobs} == {"succeeded"}
    assert world.query("SELECT max(attempts) FROM work_items WHERE job_id = ANY (%s)", jobs) == [(1,)]
    assert set(statuses) <= {200, 503}
