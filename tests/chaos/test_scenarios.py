"""Six faults on real processes, with every invariant checked after each: what `make test` holds of the reliability notes' table."""

import threading
from contextlib import ExitStack

import pytest

from tests.chaos import faults
from tests.chaos.jobs import anchors, body, odd
from tests.chaos.world import World
from tests.support.server_process import wait_until

pytestmark = pytest.mark.timeout(180)
SLOW_TEACHER = 0.4
ANSWERED = 6
"""Calls of a job's first slice, whose holder is then not between two slices."""


def test_01_killed_worker_loses_no_job_and_costs_no_attempt(world: World) -> None:
    with faults.teacher_silent(world, after=ANSWERED):
        job = world.submit(body(anchors() + odd("kill", 24)))
        wait_until(lambda: world.lm.in_flight >= 4, "the next calls of the job")
        faults.kill(world, world.wait_held(job, "bootstrap"))
    world.wait_over([job])
    assert world.status(job) == "succeeded"
    lost = world.query("SELECT max(losses), max(attempts) FROM chaos.audit WHERE job_id = %s AND was = 'leased' AND became = 'queued'", job)
    assert lost == [(1, 0)]


def test_04_worker_that_stood_still_publishes_nothing(world: World) -> None:
    with ExitStack() as stalled:
        with faults.teacher_silent(world, after=ANSWERED):
            job = world.submit(body(anchors() + odd("zombie", 24)))
            wait_until(lambda: world.lm.in_flight >= 4, "the next calls of the job")
            stalled.enter_context(faults.stalled(world, world.wait_held(job, "bootstrap")))
        world.wait_over([job])
    assert world.status(job) == "succeeded"
    reaped = "SELECT count(*) FROM chaos.audit WHERE job_id = %s AND was = 'leased' AND NOT by_holder AND became = 'queued'"
    assert world.query(reaped, job)[0][0] >= 1


def test_14_cancelled_job_stops_its_processes_and_publishes_nothing(world: World) -> None:
    world.lm.latency = 5 * SLOW_TEACHER
    idle = set(faults.runners(world))
    job = world.submit(body(anchors() + odd("cancel", 60)))
    first = "SELECT 1 FROM chaos.audit WHERE job_id = %s AND step = 'bootstrap' AND became = 'succeeded'"
    wait_until(lambda: world.query(first, job) != [], "the first slice is not published")
    holder = world.wait_held(job, "bootstrap")
    assert world.ask(job, "cancel") == 200
    world.wait_over([job])
    assert world.status(job) == "cancelled"
    wait_until(lambda: not set(faults.runners(world, holder)) - idle, "the runner of a cancelled job still runs")
    assert world.calls_about("Odd cancel") < 60


def test_17_a_hint_delivered_five_times_is_worked_on_once(world: World) -> None:
    job = world.submit(body(anchors() + odd("hint", 8)))
    for queue in ("rollouts", "light", "train"):
        faults.send_hints(world, queue, 5)
    world.wait_over([job])
    assert world.status(job) == "succeeded"
    claims = "SELECT item_id, count(*) FROM chaos.audit WHERE job_id = %s AND became = 'leased' GROUP BY 1 HAVING count(*) > 1"
    assert world.query(claims, job) == []


def test_27_losing_all_of_redis_loses_no_job(world: World) -> None:
    world.lm.latency = SLOW_TEACHER
    running = [world.submit(body(anchors() + odd(f"flush-{n}", 16))) for n in range(2)]
    for job in running:
        world.wait_held(job, "bootstrap")
    queued = [world.submit(body(anchors() + odd(f"flushed-{n}", 2), auto_start=False)) for n in range(3)]
    for job in queued:
        assert world.ask(job, "start") == 200
    faults.flush_redis(world)
    world.lm.latency = world.latency
    world.wait_over([*running, *queued])
    assert {world.status(job) for job in [*running, *queued]} == {"succeeded"}


def test_36_restarted_postgres_is_no_error_to_callers(world: World) -> None:
    job = world.submit(body(anchors() + odd("restart", 8)))
    over = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        while not over.wait(0.05):
            statuses.append(world.look(job))

    asking = threading.Thread(target=ask)
    asking.start()
    faults.restart_postgres(world)
    world.wait_over([job])
    over.set()
    asking.join()
    assert world.status(job) == "succeeded"
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
