"""Connections that do not take calls: who may claim, who tries, and for how long work waits."""

import pytest

from distill.catalog import waits
from distill.db import now, unit_of_work
from distill.jobs import claims, outbox, retrying
from distill.jobs.claims import WorkerInfo
from distill.jobs.status import Step
from distill.settings import get_settings
from tests.integration.core.world import World, at_once, claim, connection, execute, items, job, taken
from workers.dispatcher import Dispatcher


def limit(reason: str = "rate_limited", asked: float | None = 60, *, tried: bool = False) -> bool:
    with unit_of_work() as s:
        return waits.limit(s, connection("teachers").id, reason, asked, tried=tried)


def let_time_pass() -> None:
    """The time of the next try has come, and that of all items."""
    execute("UPDATE connections SET limited_until = clock_timestamp() WHERE limited_since IS NOT NULL")
    execute("UPDATE work_items SET run_after = clock_timestamp() WHERE status = 'queued'")


def release(held: claims.Claim) -> None:
    with unit_of_work() as s:
        claims.release(s, held)


def open_jobs(world: World, number: int = 1, *, ranges: int = 1) -> list[str]:
    """Jobs in bootstrap whose items need the connection."""
    jobs = [world.at_bootstrap(30, items=ranges, num_threads=8) for _ in range(number)]
    execute("UPDATE work_items SET connections = ARRAY(SELECT id FROM connections WHERE name = 'teachers') WHERE step = 'bootstrap'")
    return jobs


class TestWaiting:
    def test_nothing_that_needs_it_is_claimed_until_its_time(self, world: World) -> None:
        open_jobs(world)
        assert limit()
        assert claim() is None
        let_time_pass()
        assert taken().tries == (connection("teachers").id,)

    def test_what_needs_another_is_claimed(self, world: World) -> None:
        open_jobs(world)
        limit()
        execute("UPDATE work_items SET connections = ARRAY(SELECT id FROM connections WHERE name = 'house')")
        assert taken().tries == ()

    def test_work_that_was_running_costs_no_attempt_and_is_hinted_at_when_the_next_try_is_due(self, world: World) -> None:
        (job_id,) = open_jobs(world)
        held = taken()
        limit(asked=60)
        execute("UPDATE outbox SET sent_at = clock_timestamp()")
        release(held)
        row = next(item for item in items(job_id, Step.BOOTSTRAP) if item.id == held.item_id)
        assert (row.status, row.attempts) == ("queued", 0)
        assert row.run_after == connection("teachers").limited_until
        with unit_of_work() as s:
            assert (outbox.take(s), outbox.take_due(s)) == ([], [])
        let_time_pass()
        execute("UPDATE work_items SET hinted_at = run_after - interval '1 second'")
        with unit_of_work() as s:
            assert "rollouts" in [hint.queue for hint in outbox.take_due(s)]

    def test_its_pauses_grow_and_the_host_is_obeyed(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_TIMERS__CONNECTION_PAUSE_CAP_SECONDS", "35")
        get_settings.cache_clear()
        lengths = []
        for asked in (None, None, None, None, 100.0, 9999.0):
            with unit_of_work() as s:
                waits.limit(s, connection("teachers").id, "unavailable", asked, tried=True)
                at = now(s)
            until = connection("teachers").limited_until
            assert until is not None
            lengths.append((until - at).total_seconds() + 0.5)
        for length, (low, high) in zip(lengths, [(10, 13), (20, 26), (35, 44), (35, 44), (100, 125), (3600, 4330)], strict=True):
            assert low <= length <= high, lengths

    def test_what_others_have_found_stays(self, world: World) -> None:
        assert limit(asked=60)
        until = connection("teachers").limited_until
        assert not limit("unavailable", 1)
        assert (connection("teachers").limited_reason, connection("teachers").limited_until) == ("rate_limited", until)


class TestTrying:
    def test_of_many_one_tries_with_one_thread_and_a_short_slice(self, world: World) -> None:
        open_jobs(world, 3)
        limit()
        let_time_pass()
        won = [held for held in at_once(8, lambda index: claim(worker=WorkerInfo(f"w{index}", frozenset({"runtime:default"})))) if held]
        assert [(held.width, held.units) for held in won] == [(1, 8)]

    def test_its_answer_ends_the_wait_for_all(self, world: World) -> None:
        open_jobs(world, 2)
        limit()
        let_time_pass()
        held = taken()
        with unit_of_work() as s:
            waits.end(s, held.tries, held.item_id)
        row = connection("teachers")
        assert (row.limited_reason, row.limited_since, row.limited_until, row.limited_times) == (None, None, None, 0)
        other = taken()
        assert other.tries == ()
        assert other.width > 1
        with unit_of_work() as s:
            assert [hint.queue for hint in outbox.take_due(s)] == ["rollouts"]

    def test_one_that_finds_nothing_out_lets_the_next_try(self, world: World) -> None:
        open_jobs(world, 2)
        limit()
        let_time_pass()
        held = taken()
        assert claim() is None
        with unit_of_work() as s:
            waits.give_up_try(s, held.tries)
        assert taken().tries == held.tries

    def test_one_that_dies_is_not_waited_for_longer_than_a_lease(self, world: World) -> None:
        open_jobs(world, 2)
        limit()
        let_time_pass()
        taken()
        until = connection("teachers").limited_until
        assert until is not None
        with unit_of_work() as s:
            assert 100 < (until - now(s)).total_seconds() <= 120

    def test_they_take_turns(self, world: World) -> None:
        """A job whose requests the host cannot bear does not keep the others from trying."""
        jobs = open_jobs(world, 3)
        limit()
        tried = []
        for _ in range(9):
            let_time_pass()
            held = taken()
            tried.append(held.job_id)
            limit("unavailable", 60, tried=True)
            release(held)
        assert sorted(tried[:3]) == sorted(jobs)
        assert {job_id: tried.count(job_id) for job_id in jobs} == dict.fromkeys(jobs, 3)


class TestPatience:
    def waiting(self, world: World) -> str:
        (job_id,) = open_jobs(world)
        limit("quota_exhausted")
        return job_id

    def look(self, seconds: float = 0.0) -> None:
        """As the dispatcher does from time to time."""
        if seconds:
            execute("UPDATE work_items SET waits_since = waits_since - make_interval(secs => :s)", s=seconds)
        Dispatcher(get_settings().timers, send=lambda queue: None).reap()

    def test_a_job_that_waits_for_too_long_fails_and_says_for_what(self, world: World) -> None:
        job_id = self.waiting(world)
        self.look()
        self.look(86_000)
        assert job(job_id).status == "running"
        self.look(500)
        error = job(job_id).error
        assert error is not None
        assert (error["code"], error["step"], error["category"], error["retryable"]) == (
            "connection_unavailable",
            "bootstrap",
            "system",
            True,
        )
        assert error["message"].startswith("Connection teachers is out of quota: this job could not go on for 24 h.")

    def test_nobody_gives_up_before_another_try_has_failed(self, world: World) -> None:
        """As after a weekend on which the whole server was off: the host may answer again."""
        (job_id,) = open_jobs(world)
        limit()
        self.look()
        let_time_pass()
        self.look(90_000)
        assert job(job_id).status == "running"
        held = taken()
        self.look()
        assert job(job_id).status == "running"
        limit("unavailable", 60, tried=True)
        release(held)
        self.look()
        assert job(job_id).status == "failed"

    def test_a_retry_gives_it_the_whole_time_again(self, world: World) -> None:
        job_id = self.waiting(world)
        self.look()
        self.look(90_000)
        with unit_of_work() as s:
            retrying.retry(s, world.project_id, job_id)
        self.look()
        assert job(job_id).status == "queued"

    def test_a_paused_job_does_not_wait(self, world: World) -> None:
        job_id = self.waiting(world)
        self.look()
        execute("UPDATE jobs SET status = 'paused', pause_requested_at = clock_timestamp() WHERE id = :id", id=job_id)
        self.look(90_000)
        execute("UPDATE jobs SET status = 'running', pause_requested_at = NULL WHERE id = :id", id=job_id)
        self.look()
        assert job(job_id).status == "running"

    def one_tried_in_vain(self, world: World) -> tuple[claims.Claim, claims.Claim]:
        """Of two jobs, the items that tried: the first one in vain, the second is at it."""
        jobs = open_jobs(world, 2)
        limit()
        let_time_pass()
        held = taken()
        limit("unavailable", 60, tried=True)
        release(held)
        let_time_pass()
        other = taken()
        assert sorted((held.job_id, other.job_id)) == sorted(jobs)
        return held, other

    def test_another_jobs_answer_begins_the_time_anew_for_what_was_never_run(self, world: World) -> None:
        held, other = self.one_tried_in_vain(world)
        self.look()
        with unit_of_work() as s:
            waits.end(s, other.tries, other.item_id)
        self.look(90_000)
        assert {job(held.job_id).status, job(other.job_id).status} == {"failed", "running"}
        error = job(held.job_id).error
        assert error is not None
        assert error["message"].startswith("A connection does not answer these calls: ")

    def test_a_job_that_stands_in_line_while_its_connection_answers_does_not_wait_for_it(self, world: World) -> None:
        """Others go first for a day: its item was not tried again, so nothing is known against it."""
        held, other = self.one_tried_in_vain(world)
        with unit_of_work() as s:
            waits.end(s, other.tries, other.item_id)
        execute("UPDATE work_items SET started_at = started_at - make_interval(secs => 90000) WHERE status = 'queued'")
        self.look(90_000)
        assert {job(held.job_id).status, job(other.job_id).status} == {"running"}
