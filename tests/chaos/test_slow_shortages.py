"""Servers that have nothing left to give, and clients that hold on to what they have."""

import pytest
import redis

from tests.chaos import faults, shortages
from tests.chaos.jobs import brief
from tests.chaos.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
POLLS = 20


def test_30_valkey_at_maxmemory_delays_jobs_and_fails_none(world: World) -> None:
    """Jobs are accepted meanwhile; their hints are sent once there is room."""
    with shortages.redis_full(world):
        with redis.Redis.from_url(world.stack.layout.redis_url) as client, pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("a", "b")
        jobs = [world.submit(brief(f"full {n}", 4)) for n in range(4)]
        assert {world.look(jobs[0]) for _ in range(POLLS)} == {200}
    world.wait_over(jobs)
    assert {world.status(job) for job in jobs} == {"succeeded"}


def test_40_postgres_without_free_connections_is_503_and_fails_no_job(world: World) -> None:
    jobs = [world.submit(brief(f"hoard {n}", 12)) for n in range(2)]
    with shortages.without_connections(world) as taken:
        assert taken > 100
        statuses = {world.look(jobs[0]) for _ in range(POLLS)}
        assert world.get("/livez").status_code == 200
    assert 503 in statuses
    assert statuses <= {200, 503}
    world.wait_over(jobs)
    assert {world.status(job) for job in jobs} == {"succeeded"}
    assert world.query("SELECT max(attempts) FROM work_items WHERE job_id = ANY (%s)", jobs) == [(1,)]


def test_50_clients_that_stall_hold_up_no_job_and_no_other_caller(world: World) -> None:
    jobs = [world.submit(brief("stalled", 4))]
    with shortages.stalled_clients(world):
        jobs.append(world.submit(brief("beside stalled", 4)))
        assert {world.look(jobs[0]) for _ in range(POLLS)} == {200}
        world.wait_over(jobs)
    assert {world.status(job) for job in jobs} == {"succeeded"}
    with faults.stopped(world, "api"):
        pass  # it stops and starts, whoever was connected
    assert world.look(jobs[0]) == 200
