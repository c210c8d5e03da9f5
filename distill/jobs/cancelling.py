"""Cancels many jobs at once: those of a key, a program or a project."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from distill.db import Session
from distill.jobs import repository, service
from distill.jobs.models import Job
from distill.jobs.repository import JobFilter
from distill.jobs.status import JobKind, JobStatus

_OPEN = [str(status) for status in JobStatus if not status.is_terminal]


def cancel_all(
    s: Session, project_id: str | None, narrow: JobFilter, kinds: Sequence[JobKind], limit: int | None = None
) -> tuple[list[Job], bool]:
    """The jobs that were asked to stop, the oldest first, at most `limit`, and whether there may be more; of all projects where
    `project_id` is None.

    A job that ends while this goes on is left out.
    """
    query = select(Job.id).where(Job.status.in_(_OPEN), Job.cancel_requested_at.is_(None), Job.kind.in_([str(kind) for kind in kinds]))
    if project_id is not None:
        query = query.where(Job.project_id == project_id)
    found = list(s.scalars(repository.narrowed(query, narrow).order_by(Job.id).limit(limit)))
    cancelled = []
    for job_id in found:
        job = repository.lock(s, job_id)
        if not JobStatus(job.status).is_terminal:
            cancelled.append(service.cancel(s, job.project_id, job_id, JobKind(job.kind)))
    return cancelled, len(found) == limit
