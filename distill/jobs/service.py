"""What callers may ask of jobs. Every function works inside the caller's transaction and never commits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import func

from distill.catalog import audit
from distill.catalog.keys import Caller
from distill.db import Session, on_commit
from distill.errors import Conflict
from distill.ids import new_id
from distill.jobs import budget, events, outbox, quotas, repository
from distill.jobs.checks import check
from distill.jobs.lifecycle import settle, transition
from distill.jobs.models import FineTuneJob, Job
from distill.jobs.status import QUEUE_OF, JobKind, JobStatus, Step
from distill.jobs.steps import NewItem, needs_of, open_step
from distill.spec import CompileSpec
from distill.tracing import Submitted

log = structlog.get_logger(__name__)


def runs_programs(python: str = "") -> tuple[str, ...]:
    """What a worker must be able to do to run a program: it has the interpreter for it, also for bundles of one minor version."""
    return ("runtime:default", f"python:{python}") if python else ("runtime:default",)


def submit(
    s: Session, project_id: str, caller: Caller | None, spec: CompileSpec, *, derived_from: str | None = None, priority: int = 0
) -> Job:
    """Check a compile spec and store its job, with its `validate` item, event and hint.

    Raises Invalid, NotFound, Unsupported, QuotaExceeded.
    """
    checked = check(s, project_id, spec)
    quotas.check_new_job(s, project_id)
    if derived_from is not None:
        repository.get(s, project_id, derived_from)  # it may have been deleted before nobody else could make a job
    spec = checked.spec
    job = Job(
        id=new_id("cjob"),
        kind="compile",
        project_id=project_id,
        created_by=caller.key_id if caller else None,
        name=spec.name,
        program_name=spec.program_name,
        status=str(JobStatus.QUEUED if spec.auto_start else JobStatus.CREATED),
        derived_from=derived_from,
        program_id=checked.program.id,
        trainset_id=checked.trainset.id,
        valset_id=checked.valset.id if checked.valset else None,
        spec=spec.to_json(),
        spec_digest=checked.digest(),
        num_threads=spec.num_threads,
        priority=priority,
        user_metadata=dict(spec.metadata),
        queued_at=func.clock_timestamp() if spec.auto_start else None,
    )
    budget.set_limits(job, spec.budget)
    s.add(job)
    s.flush()
    events.append(s, job.id, "status", f"The job is {job.status}", {"status": job.status, "step": "validate"})
    needs = (*runs_programs(checked.python), *needs_of(s, spec.connection_ids))
    open_step(s, job, Step.VALIDATE, [NewItem("validate", needs=needs, max_attempts=3)])
    on_commit(s, Submitted(job.id, job.kind).record)
    log.info("job_submitted", job_id=job.id, project_id=project_id, kind=job.kind)
    s.refresh(job)
    return job


def unchanged(s: Session, project_id: str, spec: CompileSpec) -> Job | None:
    """The project's newest job that would give the same result: one that has all it made still, or is under way. Raises as `submit`."""
    return repository.newest_of(s, project_id, check(s, project_id, spec).digest())


def start(s: Session, project_id: str, job_id: str) -> Job:
    """Queue a job that was created with `auto_start: false`. Raises NotFound, Conflict, QuotaExceeded."""
    repository.get(s, project_id, job_id)
    job = repository.lock(s, job_id)
    if job.status != JobStatus.CREATED:  # a failed or paused job may be queued too, but not with this request
        raise Conflict(f"job {job.id} is {job.status}; only a job created with auto_start false can be started", code="wrong_status")
    quotas.check_month(s, project_id)
    transition(s, job, JobStatus.QUEUED, message="Queued")
    outbox.add(s, QUEUE_OF[Step.VALIDATE], job.id)
    return job


def cancel(s: Session, project_id: str, job_id: str, kind: JobKind = JobKind.COMPILE) -> Job:
    """Ask a job to stop. It is `cancelled` at once when no item is leased, else when the last holder has let go.

    Asking again is no error. Raises Conflict for a job that has succeeded or failed.
    """
    repository.get(s, project_id, job_id, kind)
    job = repository.lock(s, job_id)
    if job.status == JobStatus.CANCELLED or job.cancel_requested_at:
        return job
    if JobStatus(job.status).is_terminal:
        raise Conflict(f"job {job.id} has already {job.status}", code="job_over", param="id")
    job.cancel_requested_at = func.clock_timestamp()
    audit.record(s, project_id, "job.cancelled", job.id, {"status": job.status})
    settle(s, job)
    if job.status != JobStatus.CANCELLED:
        events.append(s, job.id, "log", "Cancel was requested", {"status": job.status})
    s.refresh(job)
    return job


# ------------------------------------------------------------------ for the steps


@dataclass(frozen=True, slots=True)
class NewFineTuneJob:
    """A key to be trained, as `validate` finds it."""

    lm_key: str
    predictor: str
    lms: tuple[str, ...]
    predictors: tuple[str, ...]
    connection_id: str
    base_model: str
    trainer: str
    options: Mapping[str, Any] = field(default_factory=dict)


def create_fine_tune_jobs(s: Session, job: Job, keys: Iterable[NewFineTuneJob]) -> list[FineTuneJob]:
    """The fine-tune jobs of a job, one a key, queued. Called once, when `validate` closes."""
    rows = [
        FineTuneJob(
            id=new_id("ftjob"),
            job_id=job.id,
            project_id=job.project_id,
            lm_key=key.lm_key,
            predictor=key.predictor,
            lms=list(key.lms),
            predictors=list(key.predictors),
            connection_id=key.connection_id,
            base_model=key.base_model,
            trainer=key.trainer,
            options=dict(key.options),
        )
        for key in keys
    ]
    s.add_all(rows)
    s.flush()
    return rows


def succeed(s: Session, job: Job, message: str = "Succeeded") -> None:
    """End a locked job whose last step has closed."""
    transition(s, job, JobStatus.SUCCEEDED, message=message)


def warn(s: Session, job: Job, code: str, message: str, url: str | None = None) -> None:
    """Add a warning to a locked job, once per code and text, with its event."""
    if any((entry["code"], entry["message"]) == (code, message) for entry in job.warnings):
        return
    job.warnings = [*job.warnings, {"code": code, "message": message, "url": url}]
    s.flush()
    events.append(s, job.id, "warning", message, {"code": code}, "warning")
