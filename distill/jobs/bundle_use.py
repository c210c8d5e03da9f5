"""What a bundle is to runners and jobs: read for the ones, and not removed while one of the others may still run it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import exists, func, or_, select

from distill.catalog import bundles
from distill.catalog.bundle_rows import Bundle
from distill.catalog.models import Program
from distill.db import Session, unit_of_work
from distill.errors import Conflict, Invalid
from distill.jobs.models import Job
from distill.jobs.status import JobStatus
from distill.rollouts import RunnerError
from distill.rollouts.bundles import BundleSource
from distill.storage import BlobStore

NOT_ACCEPTED = "this server takes no bundles; its operator sets `accept` in [bundles] of stillhouse.toml"
_OVER = [str(status) for status in JobStatus if status.is_terminal]


def source(store: BlobStore, *, accept: bool) -> BundleSource:
    """Where runners get bundles from; a transaction of its own each time. Unless the operator `accept`s them, none runs."""

    def read(project_id: str, digest: str) -> dict[str, Any]:
        if not accept:
            raise RunnerError("bundles_not_accepted", NOT_ACCEPTED, "bundle")
        try:
            with unit_of_work() as s:
                blob = bundles.by_name(s, project_id, digest).blob
        except Invalid as error:
            raise RunnerError(error.code, error.message, "bundle") from None
        document: dict[str, Any] = json.loads(store.read(blob))
        return document

    return read


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
