"""A client's work item, found again by its id and fence: what a worker keeps in memory between claim and publish."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select, update

from distill.db import Session
from distill.errors import LostLease, NotFound
from distill.jobs.claims import Claim
from distill.jobs.models import Job, WorkItem
from distill.jobs.status import ItemStatus, Queue, Step


def find(s: Session, project_id: str, item_id: int, fence: int) -> tuple[Claim, ItemStatus]:
    """The lease that a client names. Raises NotFound for an item that is not one of its project's, LostLease for an older fence."""
    query = select(WorkItem, Job.project_id).join(Job, Job.id == WorkItem.job_id)
    found = s.execute(query.where(WorkItem.id == item_id, WorkItem.queue == str(Queue.CLIENT), Job.project_id == project_id)).first()
    if found is None:
        raise NotFound(f"no work item work-{item_id}", param="id")
    row: WorkItem = found[0]
    if row.fence != fence:
        raise LostLease(f"work item work-{item_id} is not held with fence {fence}")
    claim = Claim(
        row.id, row.job_id, project_id, Step(row.step), row.kind, row.ordinal, row.payload, row.units, row.width, row.fence,
        row.attempts, row.lease_owner or "", row.queue,
    )  # fmt: skip
    return claim, ItemStatus(row.status)


def add_connections(s: Session, item_id: int, connection_ids: Sequence[str]) -> None:
    """Name the connections of an item that was opened by a release whose client items had none."""
    s.execute(update(WorkItem).where(WorkItem.id == item_id, WorkItem.connections == []).values(connections=list(connection_ids)))


def claimed_at(s: Session, item_id: int) -> datetime | None:
    """When its holder took it."""
    return s.scalar(select(WorkItem.started_at).where(WorkItem.id == item_id))
