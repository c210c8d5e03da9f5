"""Whatever order claims, publishes, faults, losses and cancels come in, the promises hold."""

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import text

from distill.db import Session, unit_of_work
from distill.errors import CancelRequested, Conflict, JobFault, LostLease
from distill.jobs import claims, events, service, steps
from distill.jobs.claims import Claim, StepClosed
from distill.jobs.models import Job
from distill.jobs.status import Step
from distill.settings import get_settings
from tests.integration.core.world import World, claim, execute, items, job, publish

FAULT = JobFault("runner_died", "The runner died.")
PICK = st.integers(0, 1000)


class AnyOrder(RuleBasedStateMachine):
    """Two jobs of two steps; holders that were reaped go on as zombies."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.jobs: list[str] = []
        self.holders: list[Claim] = []
        self.published: Counter[int] = Counter()
        self.acknowledged: dict[str, int] = {}
        self.lost: set[tuple[int, int]] = set()

    @initialize()
    def submit(self) -> None:
        self.jobs = [self.world.submit(num_threads=threads) for threads in (2, 8)]

    @rule(publishes=st.booleans())
    def claim(self, publishes: bool) -> None:
        """Time passes, so that what waits for another attempt is there too."""
        execute("UPDATE work_items SET run_after = clock_timestamp() WHERE status = 'queued'")
        held = claim()
        if held is not None:
            self.holders.append(held)
        if held is not None and publishes:
            self._publish(held)

    @precondition(lambda self: self.holders)
    @rule(pick=PICK)
    def publish(self, pick: int) -> None:
        self._publish(self.holders[pick % len(self.holders)])

    def _publish(self, held: Claim) -> None:
        try:
            publish(held, on_closed=self._next)
        except CancelRequested:
            return
        except LostLease:
            self.holders.remove(held)
            return
        self.holders.remove(held)
        self.published[held.item_id] += 1
        assert (held.item_id, held.fence) not in self.lost, "published by a worker that had lost its lease"
        assert held.job_id not in self.acknowledged, "published after the cancel was acknowledged"

    @precondition(lambda self: self.holders)
    @rule(pick=PICK, final=st.sampled_from([False, False, False, True]))
    def fail(self, pick: int, final: bool) -> None:
        self._end(pick, partial(claims.fail, error=FAULT, retryable=not final))

    @precondition(lambda self: self.holders)
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        self._end(pick, claims.release)

    @precondition(lambda self: self.holders)
    @rule(pick=PICK)
    def lose(self, pick: int) -> None:
        """The holder stays in the list: it does not know yet that somebody else has its item."""
        held = self.holders[pick % len(self.holders)]
        execute("UPDATE work_items SET lease_expires_at = 'epoch' WHERE id = :id AND status = 'leased'", id=held.item_id)
        with unit_of_work() as s:
            if claims.reap(s) == held.item_id:
                self.lost.add((held.item_id, held.fence))
        self.claim(publishes=False)

    @rule(which=st.sampled_from([None, None, None, 0, 1]))
    def cancel(self, which: int | None) -> None:
        """Seldom, or there is nothing left to look at."""
        if which is None:
            return
        job_id = self.jobs[which]
        try:
            with unit_of_work() as s:
                service.cancel(s, self.world.project_id, job_id)
        except Conflict:
            return
        self.acknowledged[job_id] = len(items(job_id))

    @invariant()
    def promises(self) -> None:
        assert all(count == 1 for count in self.published.values()), "an item was published twice"
        for job_id in self.jobs:
            self._check(job_id)

    def _check(self, job_id: str) -> None:
        row, work = job(job_id), items(job_id)
        statuses = {item.status for item in work}
        if row.status in ("succeeded", "cancelled"):
            assert not statuses & {"queued", "leased"}, f"a {row.status} job has {statuses}"
        if row.status == "failed":
            assert "queued" not in statuses
        if row.status in ("queued", "running"):
            assert statuses & {"queued", "leased"}, "a job that nobody will ever touch again"
        assert sum(item.width for item in work) <= row.num_threads
        with unit_of_work() as s:
            told = [event.seq for event in events.after(s, job_id, 0)]
            done = s.execute(text("SELECT sum(done) FROM job_steps WHERE job_id = :id"), {"id": job_id}).scalar_one()
        assert told == list(range(1, len(told) + 1))
        assert done == sum(item.units for item in work if item.status == "succeeded")

    def _next(self, s: Session, row: Job, closed: StepClosed) -> None:
        if closed.name is Step.VALIDATE:
            steps.open_step(s, row, Step.BOOTSTRAP, [steps.NewItem("teacher:0", {"start": 0, "stop": 20}, 20), steps.NewItem("teacher:1")])
        else:
            service.succeed(s, row)

    def _end(self, pick: int, act: Callable[[Session, Claim], object]) -> None:
        held = self.holders[pick % len(self.holders)]
        self.holders.remove(held)
        try:
            with unit_of_work() as s:
                act(s, held)
        except LostLease:
            return
        assert (held.item_id, held.fence) not in self.lost, "ended by a worker that had lost its lease"


class TestAnyOrder:
    def test_promises_hold(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_TIMERS__LEASE_SECONDS", "0.5")
        monkeypatch.setenv("STILLHOUSE_TIMERS__REAP_GRACE_SECONDS", "0")
        get_settings.cache_clear()

        class Here(AnyOrder):
            runs = 0

            def __init__(self) -> None:
                Here.runs += 1
                for table in ("outbox", "jobs"):
                    execute(f"DELETE FROM {table}")
                super().__init__(world)

        # Every step is milliseconds of a real database: no shrinking, and the same orders in every run.
        effort = hypothesis_settings(
            phases=[Phase.generate],
            derandomize=True,
            max_examples=15,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(Here, settings=effort)
        assert Here.runs >= 15
