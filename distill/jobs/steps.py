"""Opening steps: the rows that make a step's work claimable."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, insert, text

from distill.catalog import connections
from distill.db import Session
from distill.jobs import events, outbox
from distill.jobs.models import Job, JobStep, WorkItem
from distill.jobs.status import QUEUE_OF, Queue, Step

_RELEASE = text("""
UPDATE work_items SET held = false, run_after = clock_timestamp(), hinted_at = clock_timestamp()
 WHERE job_id = :job_id AND step = :step AND held AND status = 'queued' AND (CAST(:kind AS text) IS NULL OR kind = :kind)
RETURNING queue
""")
_OLDEST_OPEN = text("SELECT name FROM job_steps WHERE job_id = :job_id AND status IN ('queued', 'running')")
_ORDER = list(Step)
OWN_CONNECTIONS = "connections:own"
"""A worker of a release before projects had connections of their own would call them without their key, and is not given their items."""


@dataclass(frozen=True, slots=True)
class NewItem:
    """A work item to be. `units` is what it adds to its step's `done`; a `payload` range has as many units as it is long."""

    kind: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    units: int = 1
    queue: Queue | None = None
    needs: Sequence[str] = ()
    connections: Sequence[str] = ()
    held: bool = False
    fine_tune_job_id: str | None = None
    max_attempts: int = 5


def open_step(s: Session, job: Job, name: Step | str, items: Sequence[NewItem], total: int | None = None) -> None:
    """Open a step of a locked job: its row, its items, their hints, and the event; assemble goes on with what readers see as prepare.

    `total` is the sum of the items' units unless given. Raises ValueError when there is nothing to do, since such a step never closes.
    """
    step = Step(name)
    units = sum(item.units for item in items) if total is None else total
    if units < 1 or not items:
        raise ValueError(f"step {step} of {job.id} would open with no work")
    s.execute(insert(JobStep).values(job_id=job.id, name=str(step), total=units))
    _insert(s, job, step, items)
    _point(s, job)
    if step is step.public:
        events.append(s, job.id, "step", f"{step} opened", {"step": str(step), "total": units, "status": "queued"})


def release_held(s: Session, job: Job, name: Step | str, kind: str | None = None) -> int:
    """Make a step's held items claimable (all, or those of one kind); returns how many there were."""
    queues = s.scalars(_RELEASE, {"job_id": job.id, "step": str(Step(name)), "kind": kind}).all()
    outbox.add_for(s, queues, job.id)
    return len(queues)


def point_at_oldest_open(s: Session, job: Job) -> None:
    """Let `jobs.step` name the earliest step that is still open; evaluate opens with bootstrap, so there may be two."""
    _point(s, job)


def _point(s: Session, job: Job) -> None:
    names = {Step(name) for name in s.scalars(_OLDEST_OPEN, {"job_id": job.id})}
    if names:
        job.step = str(min(names, key=_ORDER.index).public)
        s.flush()


def needs_of(s: Session, connection_ids: Collection[str]) -> tuple[str, ...]:
    """What a worker must be able to do for the sake of these connections."""
    return (OWN_CONNECTIONS,) if connections.any_own(s, connection_ids) else ()


def _insert(s: Session, job: Job, step: Step, items: Sequence[NewItem]) -> None:
    rows = [_row(job, step, ordinal, item, _more_needs(s, item)) for ordinal, item in enumerate(items)]
    s.execute(insert(WorkItem).values(created_at=func.clock_timestamp()), rows)
    outbox.add_for(s, (row["queue"] for row in rows if not row["held"]), job.id)


def _more_needs(s: Session, item: NewItem) -> tuple[str, ...]:
    """A client asks through the gateway, whatever it can do itself."""
    return () if item.queue is Queue.CLIENT else needs_of(s, item.connections)


def _row(job: Job, step: Step, ordinal: int, item: NewItem, more_needs: Sequence[str]) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "step": str(step),
        "kind": item.kind,
        "ordinal": ordinal,
        "payload": dict(item.payload),
        "units": item.units,
        "queue": str(item.queue or QUEUE_OF[step]),
        "needs": [*item.needs, *more_needs],
        "connections": list(item.connections),
        "held": item.held,
        "fine_tune_job_id": item.fine_tune_job_id,
        "max_attempts": item.max_attempts,
        "priority": job.priority,
    }
