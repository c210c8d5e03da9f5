"""Whatever order claims, beats, ends of leases and callers' requests come in, alone or at once, the promises hold."""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import text

from distill.catalog import devices, waits
from distill.db import Session, unit_of_work
from distill.errors import CancelRequested, Conflict, Invalid, JobFault, LostLease
from distill.execute import flow
from distill.execute.work import Work
from distill.jobs import claims, pausing, repository, retrying, service, steps, trained
from distill.jobs.claims import Claim, StepClosed, WorkerInfo
from distill.jobs.models import Job
from distill.jobs.service import NewFineTuneJob
from distill.jobs.status import JobStatus, Queue, Step
from distill.settings import get_settings
from tests.integration.core import edges
from tests.integration.core.journal import Journal, ticket
from tests.integration.core.world import World, at_once, claim, connection, execute, job

FAULT = JobFault("runner_died", "The runner died.")
ACTORS = [
    WorkerInfo(name, frozenset({"runtime:default", "trainer:local"}), max_width=width) for name, width in (("ada", 2), ("bo", 8), ("cy", 8))
]
PICK = st.integers(0, 1000)
OF_HOLDERS = ("beat", "publish", "reject", "fail", "give_up", "release", "lapse", "limit", "answer", "lease_device")
OF_CALLERS = ("start", "pause", "resume", "retry", "retry_a_key")
ACTS = ("claim", "claim", *OF_HOLDERS, "publish", "reap", "agent", *OF_CALLERS, "cancel")
DEVICE = "cpu-0"
Thunk = Callable[[], object]
_PASS_TIME = """
UPDATE work_items SET run_after = clock_timestamp()
 WHERE id IN (SELECT id FROM work_items WHERE status = 'queued' AND run_after > clock_timestamp() FOR UPDATE SKIP LOCKED)
"""
_NO_WAITS = """
UPDATE connections SET waiting_since = NULL, limited_reason = NULL, limited_since = NULL, limited_until = NULL, limited_times = 0
"""
_LAPSE = text("UPDATE work_items SET lease_expires_at = 'epoch' WHERE id = :id AND fence = :fence AND status = 'leased' RETURNING id")


class AnyOrder(RuleBasedStateMachine):
    """Three jobs of five steps; holders that were reaped go on as zombies.

    An act finds what it acts on before it begins, so acts that run at once may meet on one lease.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.journal = Journal()
        self.jobs: list[str] = []
        self.holders: list[Claim] = []

    @initialize()
    def submit(self) -> None:
        self.jobs = [self.world.submit(num_threads=threads, auto_start=threads != 3) for threads in (2, 8, 3)]
        self.teachers, self.house = connection("teachers").id, connection("house").id

    # ------------------------------------------------------------ rules

    @rule(pick=PICK, act=st.sampled_from(["claim", "reap", "agent", *OF_CALLERS]))
    def one(self, act: str, pick: int) -> None:
        self._plan(act, pick)()

    @rule(pick=PICK, act=st.sampled_from([*OF_HOLDERS, "publish", "publish"]))
    def one_holder(self, act: str, pick: int) -> None:
        self._plan(act, pick)()

    @rule(pick=PICK, act=st.sampled_from(["beat", "publish", "fail", "give_up", "release"]))
    def overtaken(self, act: str, pick: int) -> None:
        """A worker loses its lease, another has its item, and the first does not know."""
        if self.holders:
            held = self.holders[pick % len(self.holders)]
            self._lapse(held)
            while self._reap():
                pass
            while self._claim(pick, Queue(held.queue)) and self.holders[-1].item_id != held.item_id:
                pass
            self._plan_for(act, held)()

    @rule(pick=PICK, act=st.sampled_from(["publish", "fail", "give_up", "release", "lapse"]))
    def with_the_device(self, act: str, pick: int) -> None:
        """A hand-over, and then the end of the lease or of its holder."""
        if self.holders:
            held = self.holders[pick % len(self.holders)]
            self._lease_device(held)
            self._agent()
            self._plan_for(act, held)()

    @rule(acts=st.lists(st.tuples(st.sampled_from(ACTS), PICK), min_size=2, max_size=4))
    def together(self, acts: list[tuple[str, int]]) -> None:
        """Each in a thread and a session of its own."""
        self._at_once([self._plan(act, pick) for act, pick in acts])

    @rule(queue=st.sampled_from(Queue), pick=PICK)
    def finish_together(self, queue: Queue, pick: int) -> None:
        """Claim all there is, and publish it at once: the last items of a step among it."""
        before = len(self.holders)
        while len(self.holders) < before + 6 and self._claim(pick, queue):
            pass
        self._at_once([partial(self._publish, held) for held in self.holders[before:]])

    @rule()
    def the_next_try_is_due(self) -> None:
        self.journal.tries_may_begin()
        execute("UPDATE connections SET limited_until = clock_timestamp() WHERE limited_since IS NOT NULL")

    @rule(pick=st.sampled_from([None, None, None, None, 0, 1, 2]))
    def cancel(self, pick: int | None) -> None:
        """Seldom, or there is nothing left to look at."""
        if pick is not None:
            self._cancel(self.jobs[pick])

    @invariant()
    def promises(self) -> None:
        self.journal.check(self.jobs)

    def teardown(self) -> None:
        """Every job ends, once all workers are lost, nobody asks for anything, and new workers do what is there."""
        for job_id in self.jobs:
            self._start(job_id)
            self._resume(job_id)
        execute("UPDATE work_items SET lease_expires_at = 'epoch' WHERE status = 'leased'")
        while self._reap():
            pass
        for _ in range(2 * len(Step)):
            self.the_next_try_is_due()
            self._agent()
            for queue in Queue:
                self.finish_together(queue, 1)
            if all(JobStatus(job(each).status).is_terminal for each in self.jobs):
                break
        self.promises()
        assert all(JobStatus(job(each).status).is_terminal for each in self.jobs), "a job that never ends"
        self._agent()
        assert connection("house").waiting_since is None, "a host that never serves again"

    # ------------------------------------------------------------ acts

    def _plan(self, act: str, pick: int) -> Thunk:
        if act == "claim":
            return partial(self._claim, pick, list(Queue)[pick % 3])
        if act in ("reap", "agent"):
            return partial(getattr(self, f"_{act}"))
        if act in OF_CALLERS or act == "cancel":
            return partial(getattr(self, f"_{act}"), self.jobs[pick % len(self.jobs)])
        if not self.holders:
            return partial(self._claim, pick, Queue.ROLLOUTS)
        return self._plan_for(act, self.holders[pick % len(self.holders)])

    def _plan_for(self, act: str, held: Claim) -> Thunk:
        return partial(getattr(self, f"_{act}"), held)

    def _at_once(self, thunks: list[Thunk]) -> None:
        if thunks:
            at_once(len(thunks), lambda index: thunks[index]())

    def _claim(self, pick: int, queue: Queue) -> bool:
        """Time passes, so that what waits for another attempt is there too."""
        execute(_PASS_TIME)
        began = time.monotonic()
        held = claim(queue, ACTORS[pick % len(ACTORS)])
        if held is not None:
            if held.tries:
                self.journal.try_began(began, get_settings().timers.lease_seconds)
            self.journal.was_claimed(held)
            self.holders.append(held)
        return held is not None

    def _beat(self, held: Claim) -> None:
        known = {*self.journal.ends, *self.journal.lapsed}
        with unit_of_work() as s:
            reply = claims.beat(s, held, {"done": 1})
        assert reply.lost or ticket(held) not in known, "a lost lease was renewed"
        if reply.lost:
            self._leave(held)

    def _reject(self, held: Claim) -> None:
        """Publish; should it close bootstrap, what came out is not worth going on with."""
        self._publish(held, worthwhile=False)

    def _publish(self, held: Claim, worthwhile: bool = True) -> None:
        self._answer(held)
        gone, cancelled = ticket(held) in self.journal.ends, held.job_id in self.journal.acknowledged
        rounds: list[int] = []
        closed: list[str] = []

        def closing(s: Session, row: Job, step: StepClosed) -> None:
            closed.append(str(step.name))
            self._next(s, row, step, worthwhile)

        try:
            Work(held).publish(locked=lambda s: rounds.append(repository.by_id(s, held.job_id).round), on_closed=closing)
        except CancelRequested:
            return
        except LostLease:
            self._leave(held)
            return
        self._leave(held)
        self.journal.was_published(held, rounds[-1], closed[-1] if closed else None)
        assert not gone, "published by a worker that had lost its lease"
        assert not cancelled, "published after the cancel was acknowledged"

    def _fail(self, held: Claim) -> None:
        self._end(held, "tried again", lambda s: claims.fail(s, held, FAULT, retryable=True))

    def _give_up(self, held: Claim) -> None:
        self._end(held, "failed", lambda s: claims.fail(s, held, FAULT))

    def _release(self, held: Claim) -> None:
        self._end(held, "released", lambda s: claims.release(s, held))

    def _end(self, held: Claim, how: str, act: Callable[[Session], object]) -> None:
        self._leave(held)
        with suppress(LostLease):
            with unit_of_work() as s:
                act(s)
            self.journal.ended(ticket(held), how)
        if held.tries:  # it found nothing out
            self.journal.tries_may_begin()
            with unit_of_work() as s:
                waits.give_up_try(s, held.tries)

    # ------------------------------------------------------------ hosts and devices

    def _limit(self, held: Claim) -> None:
        """Its teacher takes no calls: it says so, and gives its item back."""
        if held.step is Step.BOOTSTRAP:
            self.journal.tries_may_begin()
            with unit_of_work() as s:
                waits.limit(s, self.teachers, "rate_limited", 60, tried=bool(held.tries))
        self._release(held)

    def _answer(self, held: Claim) -> None:
        if held.tries:
            self.journal.tries_may_begin()
            with unit_of_work() as s:
                waits.end(s, held.tries, held.item_id)

    def _lease_device(self, held: Claim) -> None:
        """And needs all of it."""
        with suppress(LostLease), unit_of_work() as s:
            state = claims.lease_device(s, held, DEVICE)
            if state is not None:
                devices.take_alone(s, DEVICE, state.fence)

    def _agent(self) -> None:
        """What the agent of the house does, but for what it asks of its host."""
        with unit_of_work() as s:
            state = devices.state(s, DEVICE)
            if state.wanted:
                devices.acknowledge(s, DEVICE, state.fence)
            elif not state.leased:
                devices.taken_back(s, DEVICE)

    def _leave(self, held: Claim) -> None:
        with suppress(ValueError):  # another thread of the same holder was faster
            self.holders.remove(held)

    def _lapse(self, held: Claim) -> None:
        """Its holder stays in the list: it does not know yet."""
        with unit_of_work() as s:
            has_lapsed = s.execute(_LAPSE, {"id": held.item_id, "fence": held.fence}).first() is not None
        if has_lapsed:
            self.journal.lapsed.add(ticket(held))

    def _reap(self) -> bool:
        with unit_of_work() as s:
            item = claims.reap(s)
            fence = s.execute(text("SELECT fence FROM work_items WHERE id = :id"), {"id": item}).scalar()
        if item is not None and fence is not None:
            self.journal.ended((item, fence), "reaped")
        return item is not None

    # ------------------------------------------------------------ what callers ask

    def _ask(self, ask: Callable[[Session], object]) -> bool:
        try:
            with unit_of_work() as s:
                ask(s)
        except (Conflict, Invalid):
            return False
        return True

    def _start(self, job_id: str) -> None:
        self._ask(lambda s: service.start(s, self.world.project_id, job_id))

    def _cancel(self, job_id: str) -> None:
        if self._ask(lambda s: service.cancel(s, self.world.project_id, job_id)):
            self.journal.acknowledged.add(job_id)

    def _pause(self, job_id: str) -> None:
        self._ask(lambda s: pausing.pause(s, self.world.project_id, job_id))

    def _resume(self, job_id: str) -> None:
        self._ask(lambda s: pausing.resume(s, self.world.project_id, job_id))

    def _retry(self, job_id: str) -> None:
        self._ask(lambda s: retrying.retry(s, self.world.project_id, job_id))

    def _retry_a_key(self, job_id: str) -> None:
        with unit_of_work() as s:
            failed = [key.id for key in repository.fine_tune_jobs(s, job_id) if key.status == "failed"]
        if failed:
            self._ask(lambda s: retrying.retry(s, self.world.project_id, job_id, failed[0]))

    # ------------------------------------------------------------ what opens next

    def _next(self, s: Session, row: Job, closed: StepClosed, worthwhile: bool) -> None:
        if closed.name is Step.VALIDATE:
            keys = [NewFineTuneJob("v1:k", name, ("student",), (name,), self.house, "tiny", "local") for name in ("p0", "p1")]
            service.create_fine_tune_jobs(s, row, keys)
            teachers, house = [self.teachers], [self.house]
            first = steps.NewItem("teacher:0", {"start": 0, "stop": 20}, 20, connections=teachers)
            steps.open_step(s, row, Step.BOOTSTRAP, [first, steps.NewItem("teacher:1", connections=teachers)])
            compiled = steps.NewItem(trained.COMPILED, held=True, connections=house)
            steps.open_step(s, row, Step.EVALUATE, [steps.NewItem("baseline", connections=house), compiled])
        elif closed.name is Step.BOOTSTRAP and not worthwhile:
            claims.fail_job(s, row.id, JobFault("no_row_passed", "No row passed.", step="bootstrap"))
        elif closed.name is Step.BOOTSTRAP:
            keys_of = repository.fine_tune_jobs(s, row.id)
            steps.open_step(s, row, Step.TRAIN, [steps.NewItem("train", fine_tune_job_id=key.id, max_attempts=3) for key in keys_of])
        elif closed.name is Step.TRAIN:
            flow.after_train(s, row, closed)
        elif closed.name is Step.EVALUATE:
            flow.package_when_done(s, row)
        else:
            flow.after_package(s, row, closed)


def run(world: World, examples: int, length: int) -> None:
    """So many orders of so many acts. Every act is milliseconds of a real database: no shrinking, and the same orders in every run."""

    class Here(AnyOrder):
        runs = 0

        def __init__(self) -> None:
            Here.runs += 1
            execute("UPDATE devices SET item_id = NULL, lease_expires_at = NULL, acknowledged_at = NULL")
            for table in ("outbox", "jobs"):
                execute(f"DELETE FROM {table}")
            execute(_NO_WAITS)
            super().__init__(world)

    effort = hypothesis_settings(
        phases=[Phase.generate],
        derandomize=True,
        max_examples=examples,
        stateful_step_count=length,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    edges.watch()
    run_state_machine_as_test(Here, settings=effort)
    assert Here.runs >= examples
    assert [edge for table, found in edges.seen().items() for edge in found - edges.drawn()[table]] == []


class TestAnyOrder:
    @pytest.fixture(autouse=True)
    def fast_reaper(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The test server is seconds old: a reaper with real timers would wait for a whole lease after its start."""
        monkeypatch.setenv("STILLHOUSE_TIMERS__LEASE_SECONDS", "2")
        monkeypatch.setenv("STILLHOUSE_TIMERS__REAP_GRACE_SECONDS", "0")
        get_settings.cache_clear()

    def test_promises_hold(self, world: World) -> None:
        run(world, examples=12, length=30)

    @pytest.mark.slow
    def test_promises_hold_for_long(self, world: World) -> None:
        run(world, examples=40, length=50)
