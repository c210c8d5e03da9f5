"""The ends of a lease: published, failed, released, lost."""

from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from distill.db import Session, engine, unit_of_work
from distill.errors import CancelRequested, JobFault, LostLease
from distill.jobs import claims, events, outbox, repository, service, steps
from distill.jobs.claims import Claim, StepClosed
from distill.jobs.models import Job
from distill.jobs.status import Step
from tests.integration.core.world import World, at_once, claim, execute, items, job, publish, taken
from tests.support.databases import forget_settings
from tests.support.server_process import wait_until

FAULT = JobFault("runner_died", "The runner died.", "system")


def lapse() -> None:
    """Let every lease run out, and let the server have been up for long enough."""
    execute("UPDATE work_items SET lease_expires_at = clock_timestamp() - interval '1 hour' WHERE status = 'leased'")


@pytest.fixture
def fast_reaper(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test server is seconds old: a reaper with real timers would wait for a whole lease after its start."""
    monkeypatch.setenv("STILLHOUSE_TIMERS__LEASE_SECONDS", "0.1")
    monkeypatch.setenv("STILLHOUSE_TIMERS__REAP_GRACE_SECONDS", "0")


class TestPublish:
    def test_last_publisher_alone_closes_the_step(self, world: World) -> None:
        job_id = world.at_bootstrap(1, items=12, num_threads=12)
        held = [taken() for _ in range(12)]
        closed = [reply for reply in at_once(12, lambda index: publish(held[index], counts={"ok": 1, "reused": index % 2})) if reply]
        assert [(reply.name, reply.total, dict(reply.counts)) for reply in closed] == [(Step.BOOTSTRAP, 12, {"ok": 12, "reused": 6})]
        with unit_of_work() as s:
            view = repository.steps(s, job_id)[-1]
        assert (view.name, view.status, view.done, view.total) == ("bootstrap", "succeeded", 12, 12)

    def test_closing_opens_the_next_step_in_the_same_transaction(self, world: World) -> None:
        job_id = world.submit()

        def open_next(s: Session, row: Job, closed: StepClosed) -> None:
            steps.open_step(s, row, Step.BOOTSTRAP, [steps.NewItem("teacher:0")])
            raise RuntimeError("the disk is full")

        held = taken()
        with pytest.raises(RuntimeError):
            publish(held, on_closed=open_next)
        assert [item.step for item in items(job_id)] == ["validate"]
        assert items(job_id)[0].status == "leased"

    def test_stale_fence_publishes_nothing(self, world: World, fast_reaper: None) -> None:
        job_id = world.submit()
        zombie = taken()
        lapse()
        _reap()
        owner = taken()
        with pytest.raises(LostLease):
            publish(zombie, result={"by": "zombie"})
        assert publish(owner, result={"by": "owner"}) is not None
        assert items(job_id)[0].result == {"by": "owner"}

    def test_second_publish_is_refused(self, world: World) -> None:
        world.submit()
        held = taken()
        publish(held)
        with pytest.raises(LostLease):
            publish(held)

    def test_cancelled_job_publishes_nothing(self, world: World) -> None:
        job_id = world.submit()
        held = taken()
        with unit_of_work() as s:
            service.cancel(s, world.project_id, job_id)
        with pytest.raises(CancelRequested):
            publish(held)
        assert items(job_id)[0].status == "leased"

    def test_foreign_units_are_a_mistake(self, world: World) -> None:
        world.submit()
        held = taken()
        with pytest.raises(ValueError, match="closes 1 units"):
            publish(held, units=2)

    def test_parallel_writers_of_rows_that_point_at_the_job_do_not_deadlock(self, world: World) -> None:
        """Steps write such rows before they publish; the job's lock must not collide with their key locks."""
        job_id = world.at_bootstrap(1, items=8, num_threads=8)
        held = [taken() for _ in range(8)]

        def write(index: int) -> None:
            with unit_of_work() as s:
                service.create_fine_tune_jobs(s, repository.by_id(s, job_id), [_key(s, str(index))])
                claims.publish(s, held[index])

        at_once(8, write)
        assert {item.status for item in items(job_id, Step.BOOTSTRAP)} == {"succeeded"}

    def test_more_keys_than_threads_are_trained_one_after_the_other(self, world: World) -> None:
        job_id = world.at_bootstrap(1, num_threads=1)
        held = taken()
        with unit_of_work() as s:
            made = service.create_fine_tune_jobs(s, repository.by_id(s, job_id), [_key(s, name) for name in ("one", "two", "three")])
            opened = [steps.NewItem("train", fine_tune_job_id=key.id) for key in made]
            steps.open_step(s, repository.lock(s, job_id), Step.TRAIN, opened)
        publish(held)
        trained = list[str | None]()
        for _ in made:
            found = [each for each in at_once(3, lambda _: claim("train")) if each is not None]
            assert len(found) == 1
            trained.append(found[0].fine_tune_job_id)
            publish(found[0])
        assert set(trained) == {key.id for key in made}
        assert claim("train") is None

    def test_freed_width_is_offered_to_the_other_queues(self, world: World) -> None:
        """Their hints were answered while the job had no width left."""
        job_id = world.at_bootstrap(1, items=2, num_threads=1)

        def open_train(s: Session) -> None:
            key = service.create_fine_tune_jobs(s, repository.by_id(s, job_id), [_key(s, "one")])[0].id
            steps.open_step(s, repository.lock(s, job_id), Step.TRAIN, [steps.NewItem("train", fine_tune_job_id=key)])

        with unit_of_work() as s:
            open_train(s)
        held = taken()
        assert claim("train") is None
        with unit_of_work() as s:
            outbox.take(s)
        publish(held)
        with unit_of_work() as s:
            assert [hint.queue for hint in outbox.take(s)] == ["train"]


class TestBeat:
    def test_beat_renews_and_keeps_progress(self, world: World) -> None:
        job_id = world.submit()
        held = taken()
        before = items(job_id)[0].lease_expires_at
        reply = _beat(held, {"done": 3})
        after = items(job_id)[0]
        assert not reply.stop
        assert before is not None
        assert after.lease_expires_at is not None
        assert after.lease_expires_at > before
        assert after.progress == {"done": 3}

    def test_lapsed_lease_is_lost(self, world: World) -> None:
        world.submit()
        held = taken()
        lapse()
        assert _beat(held).lost

    def test_requests_come_with_the_beat(self, world: World) -> None:
        world.submit()
        held = taken()
        execute("UPDATE jobs SET pause_requested_at = clock_timestamp()")
        assert (_beat(held).cancel, _beat(held).pause) == (False, True)
        execute("UPDATE jobs SET cancel_requested_at = clock_timestamp()")
        assert _beat(held).cancel

    def test_progress_events_come_at_most_once_a_second(self, world: World) -> None:
        job_id = world.submit()
        held = taken()
        for done in range(5):
            _beat(held, {"done": done})
        assert _types(job_id).count("validate.progress") == 1

    def test_the_same_progress_is_told_once(self, world: World) -> None:
        job_id = world.submit()
        held = taken()
        for left in (9.5, 9.1, 8.8):
            execute("UPDATE jobs SET progress_event_at = NULL")
            _beat(held, {"message": "Training step 1 of 4", "step": 1, "seconds_remaining": left})
        execute("UPDATE jobs SET progress_event_at = NULL")
        _beat(held, {"message": "Training step 2 of 4", "step": 2, "seconds_remaining": 8.0})
        assert _types(job_id).count("validate.progress") == 2


class TestHold:
    def test_only_the_holder_may_write(self, world: World, fast_reaper: None) -> None:
        world.submit()
        zombie = taken()
        assert _holds(zombie)
        lapse()
        _reap()
        assert not _holds(zombie)
        assert _holds(taken())


class TestFail:
    def test_retryable_fault_waits_and_tries_again(self, world: World) -> None:
        job_id = world.submit()
        assert _fail(taken(), retryable=True)
        item = items(job_id)[0]
        assert (item.status, item.attempts, job(job_id).status) == ("queued", 1, "running")
        assert claim() is None
        execute("UPDATE work_items SET run_after = clock_timestamp()")
        assert taken().attempt == 2

    def test_last_attempt_fails_the_job_with_its_error(self, world: World) -> None:
        job_id = world.submit()
        execute("UPDATE work_items SET max_attempts = 1")
        assert not _fail(taken(), retryable=True)
        row = job(job_id)
        assert row.status == "failed"
        assert row.error == {**FAULT.as_json(), "step": "validate"}
        assert _types(job_id)[-2:] == ["status", "done"]

    def test_user_fault_is_final_and_takes_the_rest_along(self, world: World) -> None:
        job_id = world.at_bootstrap(1, items=3, num_threads=2)
        first, second = taken(), taken()
        assert not _fail(first)
        assert [item.status for item in items(job_id, Step.BOOTSTRAP)] == ["failed", "leased", "cancelled"]
        assert _beat(second).cancel
        with pytest.raises(CancelRequested):
            publish(second)
        _release(second)
        assert items(job_id, Step.BOOTSTRAP)[1].status == "cancelled"
        with unit_of_work() as s:
            assert [(view.name, view.status) for view in repository.steps(s, job_id)] == [
                ("validate", "succeeded"),
                ("bootstrap", "failed"),
            ]


class TestRelease:
    def test_released_item_has_spent_no_attempt(self, world: World) -> None:
        job_id = world.submit()
        _release(taken())
        assert (items(job_id)[0].status, items(job_id)[0].attempts) == ("queued", 0)
        assert taken().attempt == 1

    def test_stale_holder_cannot_release(self, world: World) -> None:
        world.submit()
        held = taken()
        publish(held)
        with pytest.raises(LostLease):
            _release(held)


class TestReap:
    def test_lost_lease_goes_back_and_costs_no_attempt(self, world: World, fast_reaper: None) -> None:
        job_id = world.submit()
        taken()
        lapse()
        assert _reap() == items(job_id)[0].id
        item = items(job_id)[0]
        assert (item.status, item.attempts, item.losses) == ("queued", 0, 1)
        assert _reap() is None

    def test_nothing_is_reaped_before_the_server_is_one_lease_old(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        world.submit()
        taken()
        lapse()
        monkeypatch.setenv("STILLHOUSE_TIMERS__LEASE_SECONDS", "86400")
        assert _reap() is None

    def test_holder_that_stands_still_in_a_transaction_does_not_keep_the_reaper_out(self, world: World, fast_reaper: None) -> None:
        """Its machine stopped while it beat, so its rows are locked, and the reaper passes over what is locked."""
        world.submit()
        forget_settings()
        held = taken()
        lapse()
        still = Session(engine("worker"))
        claims.hold(still, held)
        wait_until(lambda: _reap() == held.item_id, "the lease is not reaped", 10)
        with pytest.raises(DBAPIError, match="idle-in-transaction"):
            still.commit()
        still.close()

    def test_third_loss_without_progress_is_poison(self, world: World, fast_reaper: None) -> None:
        job_id = world.submit()
        for _ in range(3):
            taken()
            lapse()
            assert _reap() is not None
        row = job(job_id)
        assert row.status == "failed"
        assert row.error is not None
        assert row.error["code"] == "poison"

    def test_getting_further_than_ever_forgives_losses(self, world: World, fast_reaper: None) -> None:
        job_id = world.submit()
        for done in range(4):
            _lose(taken(), {"done": done})
        assert job(job_id).status == "running"

    def test_getting_as_far_as_before_forgives_nothing(self, world: World, fast_reaper: None) -> None:
        job_id = world.submit()
        for _ in range(3):
            _lose(taken(), {"message": "Still here", "done": 2})
        row = job(job_id)
        assert row.error is not None
        assert (row.status, row.error["code"]) == ("failed", "poison")

    def test_a_new_checkpoint_forgives_losses_of_a_training_and_steps_alone_do_not(self, world: World, fast_reaper: None) -> None:
        job_id = world.at_bootstrap(1)
        with unit_of_work() as s:
            key = service.create_fine_tune_jobs(s, repository.by_id(s, job_id), [_key(s, "one")])[0].id
            steps.open_step(s, repository.lock(s, job_id), Step.TRAIN, [steps.NewItem("train", fine_tune_job_id=key)])
        for checkpoint in range(10, 50, 10):
            execute("UPDATE fine_tune_jobs SET checkpoint_step = :step", step=checkpoint)
            _lose(taken("train"), {"step": checkpoint + 5})
        assert job(job_id).status == "running"
        for step in range(100, 102):
            _lose(taken("train"), {"step": step})
        assert job(job_id).status == "failed"

    def test_racing_reapers_reap_once(self, world: World, fast_reaper: None) -> None:
        world.at_bootstrap(1, items=6, num_threads=6)
        for _ in range(6):
            taken()
        lapse()
        reaped = [item for item in at_once(8, lambda _: _reap()) if item is not None]
        assert len(reaped) == len(set(reaped)) == 6


def _key(s: Session, name: str) -> service.NewFineTuneJob:
    from distill.catalog import connections

    house = connections.find(s, "house")
    assert house is not None
    return service.NewFineTuneJob(name, "", ("student",), ("self",), house.id, "tiny", "local")


def _beat(held: Claim, progress: dict[str, Any] | None = None) -> claims.BeatReply:
    with unit_of_work() as s:
        return claims.beat(s, held, progress)


def _holds(held: Claim) -> bool:
    try:
        with unit_of_work() as s:
            claims.hold(s, held)
    except LostLease:
        return False
    return True


def _lose(held: Claim, progress: dict[str, Any]) -> None:
    """One beat, and then the worker is lost."""
    execute("UPDATE work_items SET lease_expires_at = clock_timestamp() + interval '1 minute' WHERE status = 'leased'")
    _beat(held, progress)
    lapse()
    assert _reap() is not None


def _fail(held: Claim, retryable: bool = False) -> bool:
    with unit_of_work() as s:
        return claims.fail(s, held, FAULT, retryable)


def _release(held: Claim) -> None:
    with unit_of_work() as s:
        claims.release(s, held)


def _reap() -> int | None:
    from distill.settings import get_settings

    get_settings.cache_clear()
    with unit_of_work() as s:
        return claims.reap(s)


def _types(job_id: str) -> list[str]:
    with unit_of_work() as s:
        return [event.type for event in events.after(s, job_id, 0)]
