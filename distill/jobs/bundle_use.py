"""What a bundle is to runners and jobs: read for the ones, and not removed while one of the others may still run it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import aliased

from distill.catalog import bundles, programs
from distill.catalog.bundle_rows import Bundle
from distill.catalog.models import Artifact, Program
from distill.db import Session, unit_of_work
from distill.errors import Conflict, Invalid
from distill.jobs import incumbents
from distill.jobs.models import Job
from distill.jobs.status import JobStatus
from distill.rollouts import RunnerError
from distill.rollouts.bundles import BundleSource
from distill.spec import CompileSpec
from distill.storage import BlobStore
from stillhouse_programs.spec import MetricSpec, ProgramSpec

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


def hold(s: Session, project_id: str, spec: CompileSpec) -> str:
    """None of the bundles that a job needs is deleted until the transaction ends; the Python that they are of, empty where there are none.

    Raises Invalid for one that has been deleted, and for two of different versions.
    """
    code: dict[str, ProgramSpec | MetricSpec] = {"program": programs.load(s, spec.program_id), "metric": spec.metric}
    for number, teacher in enumerate(spec.teachers):
        if teacher.program_id and teacher.program_id != spec.program_id:
            code[f"teacher[{number}].program"] = programs.load(s, teacher.program_id)
    if spec.incumbent_artifact is not None:
        code[incumbents.PARAM] = incumbents.program_of(s, spec.incumbent_artifact)
    named = {place: bundles.bundle_of(each) for place, each in code.items()}
    return bundles.python_of(s, project_id, named, hold=True)


def remove(s: Session, project_id: str, bundle_id: str) -> None:
    """Raises NotFound, and Conflict while a job that is not over names it, by its metric, a program's spec or its incumbent."""
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
    earlier = aliased(Job)
    by_incumbent = exists().where(
        Artifact.project_id == project_id,
        earlier.id == Artifact.job_id,
        Program.id == earlier.program_id,
        Program.spec.contains(digest, autoescape=True),
        func.strpos(Job.spec, Artifact.id) > 0,
    )
    named = or_(Job.spec.contains(digest, autoescape=True), by_program, by_incumbent)
    query = select(Job.id).where(Job.project_id == project_id, Job.status.not_in(_OVER), named).order_by(Job.id).limit(1)
    return s.scalar(query)
