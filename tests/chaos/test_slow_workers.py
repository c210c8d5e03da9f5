"""Workers, runners and dispatchers that die, run twice or leave rows behind: no job is lost, and no item is worked on twice at once."""

from contextlib import ExitStack

import pytest

from tests.chaos import faults
from tests.chaos.jobs import UNMEASURED, body, brief, odd, teach
from tests.chaos.world import World
from tests.support.scripted_lm import Hang
from tests.support.server_process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_02_killed_runner_is_replaced_and_its_worker_goes_on(world: World) -> None:
    pids = [world.pid(name) for name in world.worker_names]
    with faults.teacher_silent(world):
        job = world.submit(brief("runner", 8))
        wait_until(lambda: world.lm.in_flight >= 4, "the calls of the job")
        for runner in faults.without_guards(faults.runners(world)):
            faults.kill_child(world, runner)
    world.wait_over([job])
    assert world.status(job) == "succeeded"
    assert [world.pid(name) for name in world.worker_names] == pids
    assert world.query("SELECT max(losses), max(attempts) FROM work_items WHERE job_id = %s", job) == [(0, 1)]
    blamed = "SELECT count(*) FROM row_facts WHERE job_id = %s AND kind = 'rollout' AND status <> 'ok'"
    assert world.query(blamed, job) == [(0,)], "an example is not to blame for what was in flight once when its process was killed"


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


def test_18_three_dispatchers_that_wake_together_reap_each_item_once(world: World) -> None:
    lapsed = "SELECT 1 FROM work_items WHERE status = 'leased' AND lease_expires_at < clock_timestamp() - interval '1 second'"
    with faults.dispatchers(world, 3) as dispatchers, faults.teacher_silent(world):
        jobs = [world.submit(brief(f"reapers {n}")) for n in range(4)]
        for job in jobs:
            world.wait_held(job, "bootstrap")
        with ExitStack() as asleep:
            for name in dispatchers:
                asleep.enter_context(faults.stalled(world, name))
            for name in world.worker_names:
                faults.kill(world, name)
            wait_until(lambda: len(world.query(lapsed)) >= len(jobs), "the leases go on")
        wait_until(lambda: world.query(lapsed) == [], "nobody reaps them")
    world.wait_over(jobs)
    assert {world.status(job) for job in jobs} == {"succeeded"}
    reaped = "count(*) FILTER (WHERE was = 'leased' AND NOT by_holder)"
    items = f"SELECT max(losses), {reaped} FROM chaos.audit WHERE kind = 'item' AND job_id = ANY (%s) GROUP BY item_id HAVING {reaped} > 0"
    found = world.query(items, jobs)
    assert len(found) >= len(jobs)
    assert [(losses, times) for losses, times in found if losses > times] == []


def test_19_dispatcher_that_dies_between_sending_and_marking_sends_again(world: World) -> None:
    with faults.death_at(world, "dispatcher.sent"):
        job = world.submit(brief("dispatcher", 8))
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
