"""Removing a project's own connection: refused while something needs it."""

from __future__ import annotations

from sqlalchemy import select

from distill.catalog import own_connections
from distill.db import Session
from distill.errors import Conflict
from distill.jobs import repository
from distill.jobs.models import Job
from distill.jobs.status import JobStatus

_OVER = [str(status) for status in JobStatus if status.is_terminal]


def remove(s: Session, project_id: str, connection_id: str) -> None:
    """Raises NotFound, PermissionDenied for the operator's, and Conflict while a job or the project's default needs it."""
    row = own_connections.own(s, project_id, connection_id)
    if row.default_teacher:
        message = f"{row.name} is the project's default teacher: change its default_teacher to false first"
        raise Conflict(message, code="connection_in_use", param="id")
    if (job := _job_with(s, project_id, connection_id)) is not None:
        raise Conflict(f"job {job} uses {row.name} and is not over", code="connection_in_use", param="id")
    own_connections.remove(s, row)


def _job_with(s: Session, project_id: str, connection_id: str) -> str | None:
    """A compile job, not over yet, with an LM of the connection; fine-tuning jobs have only the operator's."""
    under_way = (Job.project_id == project_id, Job.kind == "compile", Job.status.not_in(_OVER))
    query = select(Job).where(*under_way, Job.spec.contains(connection_id, autoescape=True)).order_by(Job.id)
    return next((job.id for job in s.scalars(query) if connection_id in repository.spec_of(job).connection_ids), None)
