"""Retry under the leases of the round before, and keys that wait for their turn."""

from typing import Any

import pytest

from distill.db import unit_of_work
from distill.errors import Conflict, JobFault
from distill.jobs import claims, events, repository, retrying, service, steps
from distill.jobs.claims import Claim
from distill.jobs.models import Job
from distill.jobs.service import NewFineTuneJob
from distill.jobs.status import Step
from tests.integration.core.world import World, at_once, claim, connection, execute, items, job, publish, taken

FAULT = JobFault("broken", "It broke.", "system")


def fail(held: Claim) -> None:
    with unit_of_work() as s:
        claims.fail(s, held, FAULT)


def retry(world: World, job_id: str, key: str | None = None) -> Job:
    with unit_of_work() as s:
        return retrying.retry(s, world.project_id, job_id, key)


def at_train(world: World, keys: int, **changes: Any) -> tuple[str, list[str]]:
    """A job whose train is open with so many keys, and their ids."""
    job_id = world.at_bootstrap(1, **changes)
    with unit_of_work() as s:
        row = repository.lock(s, job_id)
        made = [NewFineTuneJob("v1:k", f"p{at}", ("student",), (f"p{at}",), connection("house").id, "tiny", "local") for at in range(keys)]
        found = [key.id for key in service.create_fine_tune_jobs(s, row, made)]
        steps.open_step(s, row, Step.TRAIN, [steps.NewItem("train", fine_tune_job_id=key) for key in found])
    return job_id, found


class TestRetry:
    def test_what_is_still_leased_from_the_round_before_may_be_published(self, world: World) -> None:
        job_id = world.at_bootstrap(4, items=2, num_threads=8)
        first, second = taken(), taken()
        fail(first)
        assert job(job_id).status == "failed"
        assert retry(world, job_id).round == 2
        publish(second)
        again = taken()
        assert (again.item_id, again.attempt, again.fence > first.fence) == (first.item_id, 1, True)
        closed = publish(again)
        assert closed is not None
        assert closed.total == 8

    def test_a_pause_that_a_failure_overtook_does_not_stop_the_next_round(self, world: World) -> None:
        job_id = world.at_bootstrap(4)
        held = taken()
        execute("UPDATE jobs SET pause_requested_at = clock_timestamp()")
        fail(held)
        retry(world, job_id)
        assert taken().item_id == held.item_id

    def test_of_two_that_ask_at_once_one_is_refused(self, world: World) -> None:
        job_id = world.at_bootstrap(4)
        fail(taken())

        def ask(_: int) -> int | None:
            try:
                return retry(world, job_id).round
            except Conflict:
                return None

        assert sorted(at_once(2, ask), key=str) == [2, None]
        assert job(job_id).round == 2

    def test_its_event_comes_after_the_done_of_the_round_before(self, world: World) -> None:
        job_id = world.at_bootstrap(4)
        fail(taken())
        retry(world, job_id)
        with unit_of_work() as s:
            told = [(event.type, event.message) for event in events.after(s, job_id, 0)]
        assert told[-1] == ("status", "Retried: round 2")
        assert [kind for kind, _ in told].index("done") == len(told) - 2

    def test_a_sweep_leaves_what_was_queued_again(self, world: World) -> None:
        job_id = world.at_bootstrap(4)
        fail(taken())
        retry(world, job_id)
        with unit_of_work() as s:
            claims.sweep(s)
        assert [item.status for item in items(job_id, Step.BOOTSTRAP)] == ["queued"]

    def test_a_job_that_runs_is_refused(self, world: World) -> None:
        job_id = world.at_bootstrap(4)
        with pytest.raises(Conflict):
            retry(world, job_id)


class TestKeys:
    def test_more_keys_than_threads_are_trained_in_sequence(self, world: World) -> None:
        job_id, keys = at_train(world, 3, num_threads=2)
        bootstrap = taken()
        trained: list[str | None] = []
        while held := claim("train"):
            assert claim("train") is None  # bootstrap has the other thread
            trained.append(held.fine_tune_job_id)
            publish(held)
        assert trained == keys
        assert job(job_id).status == "running"
        publish(bootstrap)

    def test_a_key_that_fails_leaves_the_others_to_finish(self, world: World) -> None:
        job_id, keys = at_train(world, 2)
        fail(taken("train"))
        assert job(job_id).status == "running"
        fail(taken("train"))
        row = job(job_id)
        assert row.status == "failed"
        assert row.error is not None
        assert all(key in row.error["message"] for key in keys)
