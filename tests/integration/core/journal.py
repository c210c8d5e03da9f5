"""What was seen of jobs while many acted on them, and the promises that hold after every act (design, section 5)."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select, text

from distill.db import Session, unit_of_work
from distill.jobs import claims, events
from distill.jobs.claims import Claim
from distill.jobs.models import FineTuneJob, Job, JobEvent, JobStep, WorkItem
from distill.jobs.status import POISON_AFTER, ItemStatus, JobStatus

_STRAY_DEVICES = text("SELECT 1 FROM devices d JOIN work_items w ON w.id = d.item_id WHERE w.status <> 'leased'")
_CALLED_ASLEEP = text("""
SELECT 1 FROM devices d JOIN connections c ON c.device = d.id
 WHERE d.acknowledged_at IS NOT NULL AND d.lease_expires_at > clock_timestamp() AND c.waiting_since IS NULL
""")
Ticket = tuple[int, int]
"""A work item and the fence of one of its leases."""


def ticket(held: Claim) -> Ticket:
    return held.item_id, held.fence


@dataclass
class Journal:
    """Thread-safe: whoever acts writes down what the database told it."""

    ends: dict[Ticket, str] = field(default_factory=dict)
    claimed: set[Ticket] = field(default_factory=set)
    lapsed: set[Ticket] = field(default_factory=set)
    published: Counter[tuple[int, int]] = field(default_factory=Counter)
    closed: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    fences: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    trying_since: float | None = None
    """When the one who may try a connection asked for that, by this process's clock."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def was_claimed(self, held: Claim) -> None:
        with self._lock:
            assert ticket(held) not in self.claimed, "one fence was given out twice"
            self.claimed.add(ticket(held))

    def try_began(self, asked: float, lease_seconds: float) -> None:
        """Two do not try one connection at once, unless the first has been silent for a lease."""
        with self._lock:
            others = self.trying_since
            assert others is None or time.monotonic() - others >= lease_seconds, "two try one connection at once"
            self.trying_since = asked

    def tries_may_begin(self) -> None:
        """Said before it is done: the one who tried has found something out, or time passes."""
        with self._lock:
            self.trying_since = None

    def ended(self, lease: Ticket, how: str) -> None:
        with self._lock:
            assert lease not in self.ends, f"a lease was {self.ends.get(lease)}, and then {how}"
            self.ends[lease] = how

    def was_published(self, held: Claim, round: int, closed: str | None) -> None:
        self.ended(ticket(held), "published")
        with self._lock:
            self.published[held.item_id, round] += 1
            assert self.published[held.item_id, round] == 1, "an item was published twice"
            if closed is not None:
                self.closed[held.job_id, closed, round] += 1
                assert self.closed[held.job_id, closed, round] == 1, "a step was closed twice"

    def check(self, job_ids: Sequence[str]) -> None:
        """Raises AssertionError for a promise that is broken."""
        with unit_of_work() as s:
            claims.sweep(s)  # those that were locked when their job ended
            assert s.execute(_STRAY_DEVICES).first() is None, "a device is leased by an item that nobody holds"
            assert s.execute(_CALLED_ASLEEP).first() is None, "a host may be called whose device a trainer has"
            for job_id in job_ids:
                seen = Seen.of(s, job_id)
                seen.check()
                self._fences_grow(seen.items)

    def _fences_grow(self, items: list[WorkItem]) -> None:
        for item in items:
            assert item.fence >= self.fences[item.id], "a fence went back"
            self.fences[item.id] = item.fence


@dataclass
class Seen:
    """One job and all that belongs to it, read in one transaction."""

    job: Job
    items: list[WorkItem]
    steps: list[JobStep]
    keys: list[FineTuneJob]
    told: list[JobEvent]

    @classmethod
    def of(cls, s: Session, job_id: str) -> "Seen":
        return cls(
            s.get_one(Job, job_id),
            list(s.scalars(select(WorkItem).where(WorkItem.job_id == job_id))),
            list(s.scalars(select(JobStep).where(JobStep.job_id == job_id))),
            list(s.scalars(select(FineTuneJob).where(FineTuneJob.job_id == job_id))),
            events.after(s, job_id, 0, limit=10_000),
        )

    def __str__(self) -> str:
        steps = {step.name: f"{step.status} {step.done}/{step.total}" for step in self.steps}
        items = [f"{item.step} {item.kind}: {'held' if item.held else item.status}" for item in self.items]
        told = [event.message for event in self.told]
        return f"{self.job.status} in round {self.job.round}, {steps}, {items}, {[key.status for key in self.keys]}, {told}"

    def check(self) -> None:
        self._statuses_fit_together()
        self._somebody_will_go_on()
        self._steps_count_what_was_published()
        self._keys_follow_their_items()
        self._events_have_no_gap()
        assert all(item.attempts <= item.max_attempts and item.losses <= POISON_AFTER for item in self.items)
        assert sum(item.width for item in self.items) <= self.job.num_threads

    @property
    def _by_status(self) -> Counter[str]:
        return Counter(item.status for item in self.items)

    def _statuses_fit_together(self) -> None:
        leased, queued = self._by_status[ItemStatus.LEASED], self._by_status[ItemStatus.QUEUED]
        if JobStatus(self.job.status).is_terminal:
            assert not queued, f"a {self.job.status} job has queued work"
        if self.job.status in (JobStatus.SUCCEEDED, JobStatus.CANCELLED, JobStatus.PAUSED, JobStatus.CREATED):
            assert not leased, f"a {self.job.status} job is worked on"
        if self.job.status == JobStatus.SUCCEEDED:
            assert set(self._by_status) == {"succeeded"}
            assert {step.status for step in self.steps} == {"succeeded"}
        if self.job.status == JobStatus.FAILED:
            assert "failed" in {step.status for step in self.steps} or (self.job.error or {}).get("step")

    def _somebody_will_go_on(self) -> None:
        if not JobStatus(self.job.status).is_claimable:
            return
        leased = self._by_status[ItemStatus.LEASED]
        claimable = sum(item.status == ItemStatus.QUEUED and not item.held for item in self.items)
        if self.job.cancel_requested_at or self.job.pause_requested_at:
            assert leased, f"a job waits for holders that it has not got: {self}"
        else:
            assert leased or claimable, f"a job that nobody will ever touch again: {self}"

    def _steps_count_what_was_published(self) -> None:
        for step in self.steps:
            mine = [item for item in self.items if item.step == step.name]
            assert step.done == sum(item.units for item in mine if item.status == ItemStatus.SUCCEEDED)
            assert step.total == sum(item.units for item in mine)
            assert (step.done == step.total) == (step.status == "succeeded")

    def _keys_follow_their_items(self) -> None:
        of = {item.fine_tune_job_id: item.status for item in self.items if item.fine_tune_job_id}
        for key in self.keys:
            assert (key.status == "succeeded") == (of.get(key.id) == "succeeded")
            assert of.get(key.id) != "failed" or key.status in ("failed", "cancelled")

    def _events_have_no_gap(self) -> None:
        assert [event.seq for event in self.told] == list(range(1, self.job.event_seq + 1))
        ended = sum(event.type == "done" for event in self.told)
        assert ended == self.job.round - 1 + JobStatus(self.job.status).is_terminal
