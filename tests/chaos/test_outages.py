"""PostgreSQL or Redis away for half a minute while clients and workers go on; Redis emptied under a full queue. Nothing fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import faults
from tests.chaos.homes import home
from tests.chaos.invariants import violations
from tests.chaos.jobs import anchors, body, odd
from tests.chaos.load import Load
from tests.chaos.world import TIMERS, World
from tests.support.server_process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
OUTAGE_SECONDS = 30.0
SLOW_TEACHER = 0.4


def outcomes(world: World, jobs: list[str]) -> set[str]:
    return {world.status(job) for job in jobs}


def pids(world: World) -> dict[str, int]:
    return {part: world.pid(part) for part in ("api", "dispatcher", *world.worker_names)}


def reaped_too_early(world: World) -> bool:
    """Before whoever held a lease could have been heard of again: within one lease of the database's own start."""
    (early,) = world.query(
        "SELECT count(*) FROM chaos.audit WHERE was = 'leased' AND became = 'queued' AND NOT by_holder"
        " AND at BETWEEN pg_postmaster_start_time() AND pg_postmaster_start_time() + make_interval(secs => %s)",
        float(TIMERS["LEASE_SECONDS"]),
    )[0]
    return bool(early)


class TestHalfAMinute:
    """Several times the lease of these workers: whoever held something has lost it."""

    @pytest.fixture
    def world(self, running_world: World) -> Iterator[World]:
        running_world.wait_whole()
        running_world.lm.latency = SLOW_TEACHER
        yield running_world
        running_world.lm.latency = running_world.latency
        running_world.wait_whole()
        assert violations(running_world) == []

    @pytest.mark.parametrize("server", ["postgres", "valkey"])
    def test_without_a_server_no_job_fails_and_no_caller_sees_a_fault(self, server: str, world: World) -> None:
        with Load(world, server) as load:
            wait_until(lambda: any(world.holders(job, "bootstrap") for job in list(load.jobs)), "nobody works")
            before, processes = len(load.jobs), pids(world)
            with faults.stopped(world, server):
                faults.pause(OUTAGE_SECONDS)
            world.lm.latency = world.latency
        assert load.bad == []
        assert outcomes(world, load.jobs) == {"succeeded"}
        assert len(load.jobs) > before
        assert pids(world) == processes  # they waited for it: nobody had to start them again
        assert not reaped_too_early(world)
        assert (load.told[503] > 0) == (server == "postgres")  # without Redis the API has nothing to say about it


class TestFullQueue:
    @pytest.fixture
    def world(self, tiny_model: Path) -> Iterator[World]:
        """Two threads in all: two jobs run, the others wait."""
        with home() as folder, World(folder, tiny_model.parent, workers=1, threads=2, latency=SLOW_TEACHER) as world:
            yield world

    def test_losing_all_of_redis_loses_none_of_twenty_queued_and_two_running_jobs(self, world: World) -> None:
        world.wait_over([world.submit(body(anchors()))])  # so that no two jobs ask at once what all share
        with faults.teacher_silent(world):
            running = [world.submit(body(anchors() + odd(f"running-{n}", 40))) for n in range(2)]
            for job in running:
                world.wait_held(job, "bootstrap")
            queued = [world.submit(body(anchors() + odd(f"queued-{n}", 1))) for n in range(20)]
            assert outcomes(world, queued) == {"queued"}
            assert outcomes(world, running) == {"running"}
            assert faults.flush_redis(world) > 0
        world.lm.latency = 0.01
        world.wait_over([*running, *queued], 240)
        assert outcomes(world, [*running, *queued]) == {"succeeded"}
        lost = "SELECT count(*) FROM chaos.audit WHERE was = 'leased' AND became = 'queued'"
        assert world.query(lost) == [(0,)]  # what ran was not disturbed
        assert violations(world) == []
