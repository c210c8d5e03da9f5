"""PostgreSQL restarted, or cutting everybody off: no job fails, nothing is taken twice, nobody sees an error."""

import threading
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
