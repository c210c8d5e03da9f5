"""Removing a bundle: refused while a job that is not over may still run it."""

from __future__ import annotations

from sqlalchemy import exists, func, or_, select

from distill.catalog import bundles
from distill.catalog.bundle_rows import Bundle
from distill.catalog.models import Program
from distill.db import Session
from distill.errors import Conflict
from distill.jobs.models import Job
from distill.jobs.status import JobStatus

_OVER = [str(status) for status in JobStatus if status.is_terminal]


def remove(s: Session, project_id: str, bundle_id: str) -> None:
    """Raises NotFound, and Conflict while a job that is not over names it, by its metric or by a program's spec."""
    row = bundles.get(s, project_id, bundle_id)
    s.execute(select(Bundle.id).where(Bundle.id == row.id).with_for_update())
    if (job := _job_with(s, project_id, row.digest)) is not None:
        raise Conflict(f"job {job} runs code of this bundle and is not over", code="bundle_in_use", param="id")
    bundles.delete(s, project_id, bundle_id)


def _job_with(s: Session, project_id: str, digest: str) -> str | None:
    """The digest, and an id, are long enough to be found as text."""
    by_program = exists().where(
        Program.project_id == project_id, Program.spec.contains(digest, autoescape=True), func.strpos(Job.spec, Program.id) > 0
    )
    named = or_(Job.spec.contains(digest, autoescape=True), by_program)
    query = select(Job.id).where(Job.project_id == project_id, Job.status.not_in(_OVER), named).order_by(Job.id).limit(1)
    return s.scalar(query)
