"""Cancels many jobs at once: those of a key, a program or a project."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from distill.catalog import audit
from distill.db import Session, unit_of_work
from distill.errors import StillhouseError
from distill.jobs import repository, service
from distill.jobs.models import Job
from distill.jobs.repository import JobFilter
from distill.jobs.status import JobKind, JobStatus

log = structlog.get_logger(__name__)
_OPEN = [str(status) for status in JobStatus if not status.is_terminal]


def cancel_all(
    s: Session, project_id: str | None, narrow: JobFilter, kinds: Sequence[JobKind], limit: int | None = None
) -> tuple[list[Job], bool]:
    """The jobs that were asked to stop, the oldest first, at most `limit`, and whether there may be more; of all projects where
    `project_id` is None.

    A job that ends while this goes on is left out.
    """
    found = _open_jobs(s, project_id, narrow, kinds, limit)
    cancelled = [job for job_id in found if (job := _cancel(s, job_id)) is not None]
    return cancelled, len(found) == limit


def cancel_each_of_key(key_id: str, *, by: str | None) -> int:
    """Cancel the jobs that a key made, each in a transaction of its own, and return how many there were. `by` is the key of who asks.

    A job that cannot be cancelled holds up no other: its error is raised when all have been tried.
    """
    with unit_of_work("api") as s:
        found = _open_jobs(s, None, JobFilter(created_by=key_id), list(JobKind))
    cancelled, errors = 0, []
    for job_id in found:
        try:
            with unit_of_work("api") as s:
                audit.acts(s, by)
                cancelled += _cancel(s, job_id) is not None
        except (SQLAlchemyError, StillhouseError) as error:
            log.warning("job_not_cancelled", job_id=job_id, error=type(error).__name__)
            errors.append(error)
    if errors:
        raise errors[0]
    return cancelled


def _open_jobs(s: Session, project_id: str | None, narrow: JobFilter, kinds: Sequence[JobKind], limit: int | None = None) -> list[str]:
    """Ids of the jobs that may be asked to stop, the oldest first."""
    query = select(Job.id).where(Job.status.in_(_OPEN), Job.cancel_requested_at.is_(None), Job.kind.in_([str(kind) for kind in kinds]))
    if project_id is not None:
        query = query.where(Job.project_id == project_id)
    return list(s.scalars(repository.narrowed(query, narrow).order_by(Job.id).limit(limit)))


def _cancel(s: Session, job_id: str) -> Job | None:
    """None for a job that has ended meanwhile."""
    job = repository.lock(s, job_id)
    return None if JobStatus(job.status).is_terminal else service.cancel(s, job.project_id, job_id, JobKind(job.kind))
