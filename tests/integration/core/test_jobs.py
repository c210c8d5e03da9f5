"""What callers may ask of jobs, and what a job tells about itself."""

from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

import psycopg
import pytest

from distill.db import Page, Session, listen_dsn, unit_of_work
from distill.errors import CancelRequested, Conflict, JobFault, NotFound
from distill.jobs import budget, claims, events, outbox, repository, service, steps
from distill.jobs.budget import Given, Wanted
from distill.jobs.claims import Claim, StepClosed
from distill.jobs.lifecycle import transition
from distill.jobs.models import Job, JobEvent
from distill.jobs.repository import JobFilter
from distill.jobs.status import JobStatus, Step
from distill.relay import NOTHING, Amount, Block, Shortage
from tests.integration.core.world import World, at_once, cancel, claim, execute, items, job, publish, taken


class TestCancel:
    def test_queued_job_is_cancelled_at_once(self, world: World) -> None:
        job_id = world.submit()
        assert cancel(world, job_id).status == "cancelled"
        assert [item.status for item in items(job_id)] == ["cancelled"]
        assert claim() is None

    def test_created_job_is_cancelled_at_once(self, world: World) -> None:
        assert cancel(world, world.submit(auto_start=False)).status == "cancelled"

    def test_running_job_is_cancelled_when_its_last_holder_lets_go(self, world: World) -> None:
        job_id = world.at_bootstrap(1, items=3, num_threads=2)
        first, second = taken(), taken()
        row = cancel(world, job_id)
        assert row.status == "running"
        assert row.cancel_requested_at is not None
        assert [item.status for item in items(job_id, Step.BOOTSTRAP)] == ["leased", "leased", "cancelled"]
        _release(first)
        assert job(job_id).status == "running"
        _release(second)
        row = job(job_id)
        assert row.status == "cancelled"
        assert row.finished_at is not None
        assert {item.status for item in items(job_id, Step.BOOTSTRAP)} == {"cancelled"}

    def test_asking_again_changes_nothing(self, world: World) -> None:
        job_id = world.submit()
        cancel(world, job_id)
        told = len(_events(job_id))
        assert cancel(world, job_id).status == "cancelled"
        assert len(_events(job_id)) == told

    def test_finished_job_cannot_be_cancelled(self, world: World) -> None:
        job_id = world.submit()
        publish(taken(), on_closed=_succeed)
        with pytest.raises(Conflict, match="already succeeded"):
            cancel(world, job_id)

    def test_lost_holder_does_not_keep_a_cancelled_job_running(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_TIMERS__LEASE_SECONDS", "0.1")
        monkeypatch.setenv("STILLHOUSE_TIMERS__REAP_GRACE_SECONDS", "0")
        from distill.settings import get_settings

        get_settings.cache_clear()
        job_id = world.submit()
        taken()
        cancel(world, job_id)
        execute("UPDATE work_items SET lease_expires_at = clock_timestamp() - interval '1 hour'")
        with unit_of_work() as s:
            claims.reap(s)
        assert job(job_id).status == "cancelled"

    def test_cancel_races_publish_to_one_end(self, world: World) -> None:
        """Succeeded or cancelled, never both, and never a success after the cancel was told."""
        for _ in range(15):
            job_id = world.submit()
            held = taken()
            outcomes = at_once(2, partial(_end, world, job_id, held))
            if job(job_id).status == "running":
                _release(held)
            final = job(job_id).status
            assert final in ("succeeded", "cancelled")
            assert (final == "succeeded") == ("published" in outcomes)

    def test_cancel_races_claims_without_leftovers(self, world: World) -> None:
        for _ in range(10):
            job_id = world.at_bootstrap(1, items=6, num_threads=6)

            def act(index: int, job_id: str = job_id) -> Claim | None:
                if index == 0:
                    cancel(world, job_id)
                    return None
                return claim()

            for held in at_once(5, act):
                if held is not None:
                    _release(held)
            assert job(job_id).status == "cancelled"
            assert {item.status for item in items(job_id, Step.BOOTSTRAP)} == {"cancelled"}

    def test_foreign_job_is_not_found(self, world: World) -> None:
        job_id = world.submit()
        other, _ = world.other_project("other")
        with pytest.raises(NotFound), unit_of_work() as s:
            service.cancel(s, other, job_id)


class TestPause:
    def test_job_is_paused_when_nothing_is_leased(self, world: World) -> None:
        """The request column alone does it, whoever sets it."""
        job_id = world.submit()
        held = taken()
        execute("UPDATE jobs SET pause_requested_at = clock_timestamp()")
        _release(held)
        assert job(job_id).status == "paused"
        assert items(job_id)[0].status == "queued"
        assert claim() is None


class TestStart:
    def test_created_job_runs_after_start(self, world: World) -> None:
        job_id = world.submit(auto_start=False)
        with unit_of_work() as s:
            assert service.start(s, world.project_id, job_id).status == "queued"
        assert taken().job_id == job_id

    def test_starting_twice_is_refused(self, world: World) -> None:
        job_id = world.submit()
        with pytest.raises(Conflict), unit_of_work() as s:
            service.start(s, world.project_id, job_id)

    def test_a_failed_job_is_not_started(self, world: World) -> None:
        """It would be queued without any work to do, for ever; `retry` gives it some."""
        job_id = world.submit()
        with unit_of_work() as s:
            claims.fail_job(s, job_id, JobFault("broken", "It broke.", step="validate"))
        with pytest.raises(Conflict, match="is failed; only a job created with auto_start false"), unit_of_work() as s:
            service.start(s, world.project_id, job_id)
        assert job(job_id).status == "failed"


class TestTransition:
    def test_only_edges_of_the_chart_exist(self, world: World) -> None:
        job_id = world.submit()
        cancel(world, job_id)
        with pytest.raises(Conflict, match="is cancelled and cannot become running"), unit_of_work() as s:
            transition(s, repository.lock(s, job_id), JobStatus.RUNNING, message="again")


class TestEvents:
    def test_numbers_have_no_gap_under_parallel_writers(self, world: World) -> None:
        job_id = world.submit()

        def write(index: int) -> None:
            for _ in range(10):
                with unit_of_work() as s:
                    events.append(s, job_id, "log", f"from {index}")

        at_once(4, write)
        assert [event.seq for event in _events(job_id)] == list(range(1, len(_events(job_id)) + 1))

    def test_after_resumes(self, world: World) -> None:
        job_id = world.submit()
        with unit_of_work() as s:
            assert [event.seq for event in events.after(s, job_id, 1)] == [2]

    def test_listeners_are_told_at_commit(self, world: World) -> None:
        with psycopg.connect(listen_dsn(), autocommit=True) as listener:
            listener.execute(f"LISTEN {events.CHANNEL}")
            job_id = world.submit()
            assert job_id in {notice.payload for notice in listener.notifies(timeout=60, stop_after=1)}


class TestSteps:
    def test_held_items_count_but_wait(self, world: World) -> None:
        job_id = world.submit(num_threads=10)

        def open_evaluate(s: Session, row: Job, _: StepClosed) -> None:
            new = [steps.NewItem("baseline", {"start": 0, "stop": 5}, 5), steps.NewItem("compiled", {"start": 0, "stop": 5}, 5, held=True)]
            steps.open_step(s, row, Step.EVALUATE, new)

        publish(taken(), on_closed=open_evaluate)
        baseline = taken()
        assert baseline.kind == "baseline"
        assert publish(baseline) is None
        assert claim() is None
        with unit_of_work() as s:
            assert steps.release_held(s, repository.lock(s, job_id), Step.EVALUATE, "compiled") == 1
        assert publish(taken()) is not None

    def test_step_without_work_is_a_mistake(self, world: World) -> None:
        job_id = world.submit()
        with pytest.raises(ValueError, match="no work"), unit_of_work() as s:
            steps.open_step(s, repository.lock(s, job_id), Step.TRAIN, [])

    def test_readers_see_prepare_and_its_assembly_as_one(self, world: World) -> None:
        job_id = world.submit()
        publish(taken(), on_closed=lambda s, row, _: steps.open_step(s, row, Step.PREPARE, [steps.NewItem("teacher:0")]))
        assert _step(job_id, "prepare") == ("queued", 0, 1)
        publish(taken(), on_closed=lambda s, row, _: steps.open_step(s, row, Step.ASSEMBLE, [steps.NewItem("assemble")]))
        assert _step(job_id, "prepare") == ("running", 1, 1)
        assert job(job_id).step == "prepare"
        publish(taken("light"))
        assert _step(job_id, "prepare") == ("succeeded", 1, 1)


class TestOutbox:
    def test_submit_asks_for_a_hint_only_if_it_commits(self, world: World) -> None:
        with pytest.raises(ValueError, match="no work"), unit_of_work() as s:
            _hint_and_fail(s)
        world.submit()
        with unit_of_work() as s:
            assert [(hint.queue, hint.many) for hint in outbox.take(s)] == [("rollouts", 1)]
        with unit_of_work() as s:
            assert outbox.take(s) == []

    def test_racing_dispatchers_send_each_row_once(self, world: World) -> None:
        with unit_of_work() as s:
            for _ in range(300):
                outbox.add(s, "train")

        def take(_: int) -> int:
            sent = 0
            while True:
                with unit_of_work() as s:
                    hints = outbox.take(s, limit=20)
                if not hints:
                    return sent
                sent += sum(hint.many for hint in hints)

        assert sum(at_once(6, take)) == 300

    def test_unclaimed_item_is_hinted_at_again(self, world: World) -> None:
        world.submit()
        with unit_of_work() as s:
            assert outbox.take_overdue(s, 60) == []
        execute("UPDATE work_items SET (hinted_at, run_after) = (SELECT t, t FROM (SELECT now() - interval '2 minutes') AS ago (t))")
        with unit_of_work() as s:
            assert [hint.queue for hint in outbox.take_overdue(s, 60)] == ["rollouts"]
        with unit_of_work() as s:
            assert outbox.take_overdue(s, 60) == []

    def test_item_that_waited_for_its_time_is_hinted_at(self, world: World) -> None:
        world.submit()
        execute("UPDATE work_items SET run_after = clock_timestamp() + interval '1 hour'")
        with unit_of_work() as s:
            assert outbox.take_due(s) == []
        execute("UPDATE work_items SET hinted_at = clock_timestamp() - interval '1 minute', run_after = clock_timestamp()")
        with unit_of_work() as s:
            assert [hint.queue for hint in outbox.take_due(s)] == ["rollouts"]


def wants(calls: int = 1, booked: Amount = NOTHING, spent: Amount = NOTHING) -> Wanted:
    """A holder of six rollouts at once, who has used all that is booked for it."""
    return Wanted("teacher:0", booked, Shortage(spent, Amount(booked.calls, spent.tokens, spent.usd), calls), calls, 6)


def take(job_id: str, wanted: Wanted) -> Given:
    with unit_of_work() as s:
        return budget.take(s, job_id, wanted)


class TestBudget:
    def test_blocks_never_exceed_the_budget_and_near_its_end_they_are_single_rollouts(self, world: World) -> None:
        job_id = world.submit(budget={"max_calls": 66})
        found = at_once(66, lambda _: take(job_id, wants()))
        assert sorted((given.booked.calls for given in found), reverse=True) == [6, 6] + [1] * 54 + [0] * 10
        refused = next(given for given in found if given.block is None)
        assert (refused.lacks, refused.most) == ("max_calls", 66)
        with unit_of_work() as s:
            budget.settle(s, job_id, booked=Amount(6), spent=Amount(2))
        assert [take(job_id, wants()).block is not None for _ in range(5)] == [True] * 4 + [False]

    def test_a_rollout_is_granted_as_a_whole(self, world: World) -> None:
        job_id = world.submit(budget={"max_calls": 7})
        assert [take(job_id, wants(3)).booked.calls for _ in range(3)] == [3, 3, 0]

    def test_without_a_budget_there_is_always_more_and_it_is_counted(self, world: World) -> None:
        job_id = world.submit()
        given = take(job_id, wants(2))
        assert given.block == Block(Amount(120, inf, inf), Amount(2, 1, 1e-6))
        with unit_of_work() as s:
            budget.settle(s, job_id, given.booked, Amount(9, 1234, 0.5))
            assert budget.taken_of(repository.by_id(s, job_id)) == Amount(9, 1234, 0.5)

    def test_tokens_that_were_spent_beyond_a_block_are_booked_whether_there_is_more_or_not(self, world: World) -> None:
        job_id = world.submit(budget={"max_tokens": 100})
        first = take(job_id, wants())
        more = take(job_id, wants(booked=first.booked, spent=Amount(1, 60)))
        assert (first.booked.tokens, more.block) == (6, None), "the mean is 60 a call, and 40 are left"
        last = take(job_id, wants(booked=more.booked, spent=Amount(2, 120)))
        assert (last.block, last.lacks, last.booked.tokens) == (None, "max_tokens", 120)
        with unit_of_work() as s:
            assert repository.by_id(s, job_id).tokens_taken == 120

    def test_a_rollout_that_has_begun_ends_while_anything_is_left(self, world: World) -> None:
        job_id = world.submit(budget={"max_tokens": 100})
        spent = Amount(1, 90)
        begins = take(job_id, wants(spent=spent))
        assert begins.block is None
        goes_on = replace(wants(booked=begins.booked), shortage=Shortage(spent, Amount(2, 90), 0, begun=True))
        assert take(job_id, goes_on).block is not None

    def test_a_holder_whose_calls_are_free_is_not_held_to_the_money(self, world: World) -> None:
        job_id = world.submit()
        with unit_of_work() as s:
            repository.by_id(s, job_id).max_cost_usd = 0.5
        assert take(job_id, wants(spent=Amount(1, 10, 0.7))).lacks == "max_cost_usd"
        assert take(job_id, replace(wants(), is_free=True)).block is not None


class TestLists:
    def test_pages_are_stable_while_jobs_are_added(self, world: World) -> None:
        made = [world.submit() for _ in range(5)]
        with unit_of_work() as s:
            first = repository.list_jobs(s, world.project_id, Page(limit=2))
        world.submit()
        with unit_of_work() as s:
            second = repository.list_jobs(s, world.project_id, Page(limit=3, after=first.data[-1].id))
        assert [row.id for row in [*first.data, *second.data]] == made[::-1]
        assert (first.has_more, second.has_more) == (True, False)

    def test_filters(self, world: World) -> None:
        plain, tagged = world.submit(), world.submit(metadata={"sha": "9f1c"}, program_name="router")
        cancel(world, plain)
        assert _ids(world, JobFilter(status="cancelled")) == [plain]
        assert _ids(world, JobFilter(), metadata={"sha": "9f1c"}) == [tagged]
        assert _ids(world, JobFilter(program="router")) == [tagged]
        assert _ids(world, JobFilter(program=world.program_id)) == [tagged, plain]

    def test_other_projects_jobs_are_not_there(self, world: World) -> None:
        job_id = world.submit()
        other, _ = world.other_project("other")
        with unit_of_work() as s:
            assert repository.list_jobs(s, other, Page()).data == []
        with pytest.raises(NotFound), unit_of_work() as s:
            repository.get(s, other, job_id)


def _hint_and_fail(s: Session) -> None:
    outbox.add(s, "light")
    raise ValueError("no work after all")


def _ids(world: World, narrow: JobFilter, **page: Any) -> list[str]:
    with unit_of_work() as s:
        return [row.id for row in repository.list_jobs(s, world.project_id, Page(**page), narrow).data]


def _release(held: Claim) -> None:
    with unit_of_work() as s:
        claims.release(s, held)


def _succeed(s: Session, row: Job, _: StepClosed) -> None:
    service.succeed(s, row)


def _end(world: World, job_id: str, held: Claim, index: int) -> str:
    try:
        if index:
            publish(held, on_closed=_succeed)
            return "published"
        cancel(world, job_id)
        return "cancelled"
    except (Conflict, CancelRequested):
        return "refused"


def _events(job_id: str) -> list[JobEvent]:
    with unit_of_work() as s:
        return events.after(s, job_id, 0)


def _step(job_id: str, name: str) -> tuple[str, int, int]:
    with unit_of_work() as s:
        view = next(view for view in repository.steps(s, job_id) if view.name == name)
    return view.status, view.done, view.total
