"""Pause and resume, whoever else is at the job."""

from contextlib import suppress
from functools import partial

import pytest

from distill.db import Session, unit_of_work
from distill.errors import CancelRequested, Conflict, JobFault, NotFound
from distill.jobs import claims, events, outbox, pausing, retrying, service
from distill.jobs.claims import Claim, StepClosed
from distill.jobs.models import Job
from distill.jobs.status import Step
from tests.integration.core.world import World, at_once, cancel, claim, execute, items, job, pause, publish, taken


def resume(world: World, job_id: str) -> Job:
    with unit_of_work() as s:
        return pausing.resume(s, world.project_id, job_id)


def release(held: Claim) -> None:
    with unit_of_work() as s:
        claims.release(s, held)


def succeed(s: Session, row: Job, _: StepClosed) -> None:
    service.succeed(s, row)


def told(job_id: str) -> list[str]:
    with unit_of_work() as s:
        return [event.message for event in events.after(s, job_id, 0)]


class TestPause:
    def test_a_queued_job_is_paused_at_once_and_nobody_gets_its_work(self, world: World) -> None:
        job_id = world.submit()
        row = pause(world, job_id)
        assert (row.status, row.pause_reason) == ("paused", {"code": "requested", "message": "Paused on request"})
        assert told(job_id)[-1] == "Paused on request"
        assert [item.status for item in items(job_id)] == ["queued"]
        assert claim() is None

    def test_a_running_job_is_paused_when_its_last_holder_lets_go(self, world: World) -> None:
        job_id = world.at_bootstrap(1, items=3, num_threads=2)
        first, second = taken(), taken()
        assert pause(world, job_id).status == "running"
        with unit_of_work() as s:
            assert claims.beat(s, first).pause
        release(first)
        assert job(job_id).status == "running"
        publish(second)
        assert job(job_id).status == "paused"
        assert [item.status for item in items(job_id, Step.BOOTSTRAP)] == ["queued", "succeeded", "queued"]
        assert {item.attempts for item in items(job_id, Step.BOOTSTRAP) if item.status == "queued"} == {0}

    def test_asking_again_changes_nothing(self, world: World) -> None:
        job_id = world.submit()
        since, before = pause(world, job_id).pause_requested_at, len(told(job_id))
        assert pause(world, job_id).pause_requested_at == since
        assert len(told(job_id)) == before

    def test_a_lost_holder_does_not_keep_a_job_from_its_pause(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        job_id = world.submit()
        taken()
        pause(world, job_id)
        execute("UPDATE work_items SET lease_expires_at = clock_timestamp() - interval '1 hour'")
        monkeypatch.setenv("STILLHOUSE_TIMERS__LEASE_SECONDS", "0.1")
        from distill.settings import get_settings

        get_settings.cache_clear()
        with unit_of_work() as s:
            claims.reap(s)
        assert job(job_id).status == "paused"

    @pytest.mark.parametrize("ask", [pause, resume])
    def test_a_job_that_is_over_or_never_began_refuses(self, world: World, ask: object) -> None:
        assert callable(ask)
        over, gone, waits, going = world.submit(), world.submit(), world.submit(auto_start=False), world.submit()
        publish(taken(), on_closed=succeed)
        cancel(world, gone)
        held = taken()
        assert held.job_id == going
        cancel(world, going)
        for job_id, code in ((over, "job_over"), (gone, "job_over"), (waits, "wrong_status"), (going, "cancel_requested")):
            with pytest.raises(Conflict) as refused:
                ask(world, job_id)
            assert refused.value.code == code

    def test_a_foreign_job_is_not_found(self, world: World) -> None:
        job_id = world.submit()
        other, _ = world.other_project("other")
        for ask in (pausing.pause, pausing.resume):
            with pytest.raises(NotFound), unit_of_work() as s:
                ask(s, other, job_id)

    def test_pause_races_the_last_publish_to_one_end(self, world: World) -> None:
        """Whichever comes first, what is finished is published, and the job is over."""
        for _ in range(15):
            job_id = world.submit()
            held = taken()
            at_once(2, partial(_end, world, job_id, held))
            assert job(job_id).status == "succeeded"

    def test_pause_races_claims_without_leftovers(self, world: World) -> None:
        for _ in range(10):
            job_id = world.at_bootstrap(1, items=6, num_threads=6)

            def act(index: int, job_id: str = job_id) -> Claim | None:
                if index == 0:
                    pause(world, job_id)
                    return None
                return claim()

            for held in at_once(5, act):
                if held is not None:
                    release(held)
            assert job(job_id).status == "paused"
            assert {item.status for item in items(job_id, Step.BOOTSTRAP)} == {"queued"}


class TestVerdictUnderAPause:
    """What the last publish of a step decides holds, though the job is to pause."""

    def test_a_job_whose_last_piece_says_that_it_fails_has_failed(self, world: World) -> None:
        job_id = world.submit()
        held = taken()
        pause(world, job_id)
        publish(held, on_closed=lambda s, row, _: claims.fail_job(s, row.id, JobFault("no_rows_kept", "Nothing to train on.", "user")))
        assert job(job_id).status == "failed"


class TestResume:
    def test_a_paused_job_is_queued_with_hints_for_all_its_work(self, world: World) -> None:
        job_id = world.at_bootstrap(1, items=2)
        pause(world, job_id)
        with unit_of_work() as s:
            outbox.take(s)
        row = resume(world, job_id)
        assert (row.status, row.pause_requested_at, row.pause_reason) == ("queued", None, None)
        with unit_of_work() as s:
            assert [hint.queue for hint in outbox.take(s)] == ["rollouts"]
        assert taken().job_id == job_id
        assert job(job_id).status == "running"

    def test_a_pause_that_has_not_come_is_taken_back(self, world: World) -> None:
        job_id = world.submit()
        held = taken()
        pause(world, job_id)
        row = resume(world, job_id)
        assert (row.status, row.pause_requested_at) == ("running", None)
        with unit_of_work() as s:
            assert not claims.beat(s, held).stop
        assert told(job_id)[-1] == "The pause was taken back"

    def test_a_job_that_is_not_paused_stays_as_it_is(self, world: World) -> None:
        job_id = world.submit()
        before = told(job_id)
        assert resume(world, job_id).status == "queued"
        assert told(job_id) == before


class TestAfterAPause:
    def test_a_paused_job_is_cancelled_at_once(self, world: World) -> None:
        job_id = world.submit()
        pause(world, job_id)
        assert cancel(world, job_id).status == "cancelled"
        assert [item.status for item in items(job_id)] == ["cancelled"]

    def test_a_cancel_goes_before_a_pause_that_has_not_come(self, world: World) -> None:
        job_id = world.submit()
        held = taken()
        pause(world, job_id)
        cancel(world, job_id)
        with pytest.raises(CancelRequested):
            publish(held)
        release(held)
        assert job(job_id).status == "cancelled"

    def test_a_retry_of_a_job_that_failed_on_its_way_to_a_pause_runs(self, world: World) -> None:
        job_id = world.submit()
        held = taken()
        pause(world, job_id)
        with unit_of_work() as s:
            claims.fail(s, held, JobFault("broken", "It broke."))
        assert job(job_id).status == "failed"
        with unit_of_work() as s:
            retrying.retry(s, world.project_id, job_id)
        assert taken().job_id == job_id


def _end(world: World, job_id: str, held: Claim, index: int) -> None:
    """Publish the last item, or ask for a pause."""
    if index:
        publish(held, on_closed=succeed)
        return
    with suppress(Conflict):
        pause(world, job_id)
