"""The only writer of a job's status. See docs/lifecycle.md."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import structlog
from sqlalchemy import func, text, update

from distill import tracing
from distill.catalog import counters, webhooks
from distill.catalog.counters import Increment
from distill.db import Session, on_commit
from distill.errors import Conflict, JobFault
from distill.jobs import events, fault_codes, shortfall
from distill.jobs.models import Job
from distill.jobs.status import TRANSITIONS, JobKind, JobStatus

log = structlog.get_logger(__name__)

_EVENTS = {JobKind.COMPILE: "compile_job", JobKind.FINE_TUNE: "fine_tuning.job"}
"""How the types of a kind's webhooks begin; fine-tuning jobs have OpenAI's."""
_OBJECTS = {JobKind.COMPILE: "compile.job", JobKind.FINE_TUNE: "fine_tuning.job"}
_STAMP = {JobStatus.QUEUED: "queued_at", JobStatus.RUNNING: "started_at"}
_CLOSE_STEPS = text("""
UPDATE job_steps SET finished_at = clock_timestamp(),
       status = CASE WHEN replace(name, 'assemble', 'prepare') = :failed THEN 'failed' ELSE 'cancelled' END,
       error = CASE WHEN replace(name, 'assemble', 'prepare') = :failed THEN CAST(:error AS json) END
 WHERE job_id = :job_id AND status IN ('queued', 'running')
""")
_CLOSE_FINE_TUNE_JOBS = text("""
UPDATE fine_tune_jobs SET status = 'cancelled', finished_at = clock_timestamp()
 WHERE id IN (SELECT id FROM fine_tune_jobs WHERE job_id = :job_id AND status IN ('queued', 'running') FOR NO KEY UPDATE SKIP LOCKED)
""")
_CANCEL_QUEUED = text("""
UPDATE work_items SET status = 'cancelled', held = false, finished_at = clock_timestamp()
 WHERE id IN (SELECT id FROM work_items WHERE job_id = :job_id AND status = 'queued' FOR UPDATE SKIP LOCKED)
""")
_DROP_CHECKPOINTS = text("""
DELETE FROM checkpoints WHERE fine_tune_job_id IN (SELECT id FROM fine_tune_jobs WHERE job_id = :job_id)
""")
_ANY_LEASED = text("SELECT EXISTS (SELECT 1 FROM work_items WHERE job_id = :job_id AND status = 'leased')")


def transition(s: Session, job: Job, to: JobStatus, *, message: str, error: JobFault | None = None) -> None:
    """Move a job along an edge of TRANSITIONS, with its event. Raises Conflict when it does not stand where the edge begins."""
    sources = [str(status) for status, targets in TRANSITIONS.items() if to in targets]
    values = _values(to, error)
    statement = update(Job).where(Job.id == job.id, Job.status.in_(sources)).values(**values).returning(Job.id)
    if s.execute(statement, execution_options={"synchronize_session": False}).first() is None:
        s.refresh(job)
        raise Conflict(f"job {job.id} is {job.status} and cannot become {to}", code="wrong_status")
    if to.is_terminal:
        _close(s, job.id, to, error)
    s.refresh(job)
    _tell(s, job, to, message, error)


def settle(s: Session, job: Job) -> None:
    """Carry out what was asked of a job as far as it goes now; the caller holds the job's row lock.

    A cancelled or failed job loses its queued items and fine-tune jobs (those locked at this moment belong to somebody who waits for
    the job's lock, will see the same, and settles again). `cancelled` and `paused` are reported once no item is leased.
    """
    if job.status in (JobStatus.FAILED, JobStatus.CANCELLED) or job.cancel_requested_at:
        s.execute(_CANCEL_QUEUED, {"job_id": job.id})
    if job.status in (JobStatus.FAILED, JobStatus.CANCELLED):
        s.execute(_CLOSE_FINE_TUNE_JOBS, {"job_id": job.id})
    if JobStatus(job.status).is_terminal or has_leased(s, job.id):
        return
    if job.cancel_requested_at:
        transition(s, job, JobStatus.CANCELLED, message="Cancelled")
    elif job.pause_requested_at and job.status != JobStatus.PAUSED:
        job.pause_reason = shortfall.told_again(s, job)
        s.flush()
        transition(s, job, JobStatus.PAUSED, message=str((job.pause_reason or {}).get("message", "Paused")))


def has_leased(s: Session, job_id: str) -> bool:
    return bool(s.execute(_ANY_LEASED, {"job_id": job_id}).scalar_one())


def _values(to: JobStatus, error: JobFault | None) -> dict[str, Any]:
    values: dict[str, Any] = {"status": str(to), "error": error.as_json() if error else None}
    if to in _STAMP:
        column = getattr(Job, _STAMP[to])
        values[_STAMP[to]] = func.coalesce(column, func.clock_timestamp())
    if to is JobStatus.QUEUED:  # whoever queues a job again wants it to run
        values.update(pause_requested_at=None, pause_reason=None)
    values["finished_at"] = func.clock_timestamp() if to.is_terminal else None
    return values


def _close(s: Session, job_id: str, to: JobStatus, error: JobFault | None) -> None:
    if to is JobStatus.SUCCEEDED:
        return
    failed = {"failed": error.step, "error": json.dumps(error.as_json())} if error else {"failed": None, "error": None}
    s.execute(_CLOSE_STEPS, {"job_id": job_id, **failed})
    s.execute(_CLOSE_FINE_TUNE_JOBS, {"job_id": job_id})
    s.execute(_CANCEL_QUEUED, {"job_id": job_id})
    if to is JobStatus.CANCELLED:  # a failed job may be retried
        s.execute(_DROP_CHECKPOINTS, {"job_id": job_id})


def _tell(s: Session, job: Job, to: JobStatus, message: str, error: JobFault | None) -> None:
    data: dict[str, Any] = {"status": str(to), "step": job.step, **({"error": error.as_json()} if error else {})}
    if to is JobStatus.PAUSED:
        data["pause"] = job.pause_reason
    events.append(s, job.id, "status", message, data, "error" if to is JobStatus.FAILED else "info")
    log.info("job_status", job_id=job.id, project_id=job.project_id, status=str(to), code=error.code if error else None)
    wanted = f"{_EVENTS[JobKind(job.kind)]}.{to}"
    if wanted in webhooks.EVENTS:
        webhooks.announce(s, job.project_id, wanted, _as_told(job))
    if to.is_terminal:
        counters.add(s, _counted(job, to, error))
        on_commit(s, partial(tracing.record_end, job.id, str(to), fault_codes.label(error.code) if error else None))
        events.append(s, job.id, "done", f"The job {'is' if to is JobStatus.CANCELLED else 'has'} {to}", {"status": str(to)})


def _counted(job: Job, to: JobStatus, error: JobFault | None) -> list[Increment]:
    """For metrics. A job that is retried ends, and is counted, again."""
    found = [Increment("jobs_finished", (job.project_id, str(to)))]
    if error is not None:
        found.append(Increment("jobs_failed", (fault_codes.label(error.code),)))
    if job.finished_at is not None:
        found += counters.JOB_SECONDS.observe((str(job.kind), str(to)), (job.finished_at - job.created_at).total_seconds())
    return found


def _as_told(job: Job) -> dict[str, Any]:
    """What a webhook says of a job; the rest can be asked for by its id."""
    return {
        "id": job.id,
        "object": _OBJECTS[JobKind(job.kind)],
        "status": job.status,
        "name": job.name,
        "program_name": job.program_name,
        "metadata": job.user_metadata,
        "error": job.error,
    }
