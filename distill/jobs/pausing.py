"""Pause and resume: a job that stands still keeps all it has, and goes on where it stood."""

from __future__ import annotations

from sqlalchemy import func, select, text

from distill.db import Session
from distill.errors import Conflict
from distill.jobs import budget, events, outbox, quotas, repository, shortfall, trained
from distill.jobs.budget import FIELD_OF
from distill.jobs.lifecycle import settle, transition
from distill.jobs.models import Job
from distill.jobs.shortfall import Shortfall
from distill.jobs.status import JobKind, JobStatus

_QUEUES = text("SELECT queue FROM work_items WHERE job_id = :job_id AND status = 'queued' AND NOT held")

_LATE = (
    select(Job)
    .where(
        Job.deadline <= func.clock_timestamp(),
        Job.status.in_([str(JobStatus.QUEUED), str(JobStatus.RUNNING)]),
        Job.pause_requested_at.is_(None),
        Job.cancel_requested_at.is_(None),
    )
    .order_by(Job.deadline)
    .limit(1)
    .with_for_update(key_share=True, skip_locked=True)
    .execution_options(populate_existing=True)
)


def pause(s: Session, project_id: str, job_id: str, kind: JobKind = JobKind.COMPILE) -> Job:
    """Ask a job to stand still. It is `paused` at once when no item is leased, else when the last holder has let go.

    Asking again is no error. Raises NotFound, Conflict for a job that is over, is being cancelled or was never started.
    """
    repository.get(s, project_id, job_id, kind)
    job = repository.lock(s, job_id)
    _refuse(job, "paused")
    if job.pause_requested_at is None:
        request(s, job, {"code": "requested", "message": "Paused on request"})
    return job


def request(s: Session, job: Job, reason: dict[str, object]) -> None:
    """Ask a locked, open job to stand still, and say why; an earlier request keeps its own reason."""
    if job.pause_requested_at is not None:
        return
    job.pause_requested_at = func.clock_timestamp()
    job.pause_reason = reason
    s.flush()
    settle(s, job)
    if job.status != JobStatus.PAUSED:
        events.append(s, job.id, "log", "Pause was requested", {"status": job.status, "pause": reason})
    s.refresh(job)


def stop_for_budget(s: Session, job_id: str, found: Shortfall, most: float) -> bool:
    """Pause a job whose budget is in the way of the next call. False where the limit has been raised from `most` meanwhile."""
    job = repository.lock(s, job_id)
    if found.unknown is None and getattr(budget.limits_of(job), FIELD_OF[found.limit]) > most:
        return False
    if not JobStatus(job.status).is_terminal and job.cancel_requested_at is None:
        request(s, job, shortfall.reason(s, job, found))
    return True


def stop_late(s: Session) -> str | None:
    """Pause one job whose deadline has passed, and return its id; None when there is none."""
    job = s.scalar(_LATE)
    if job is None:
        return None
    request(s, job, shortfall.late(job))
    return job.id


def resume(s: Session, project_id: str, job_id: str, kind: JobKind = JobKind.COMPILE) -> Job:
    """Let a paused job go on where it stood; a pause that was asked for and has not come yet is taken back.

    A job that is not paused stays as it is. Raises NotFound, Conflict for a job that is over, is being cancelled or was never started, and
    for one that its budget would stop again at once, and QuotaExceeded.
    """
    repository.get(s, project_id, job_id, kind)
    job = repository.lock(s, job_id)
    _refuse(job, "resumed")
    if job.pause_requested_at is not None and (why := shortfall.still(s, job)) is not None:
        raise Conflict(str(why["message"]), code=str(why["code"]), param=str(why["param"]))
    if job.pause_requested_at is not None:
        quotas.check_month(s, project_id)
    if job.status == JobStatus.PAUSED:
        transition(s, job, JobStatus.QUEUED, message="Resumed")
        _go_on(s, job)
    elif job.pause_requested_at is not None:
        job.pause_requested_at = job.pause_reason = None
        s.flush()
        _go_on(s, job)
        events.append(s, job.id, "log", "The pause was taken back", {"status": job.status})
    s.refresh(job)
    return job


def _go_on(s: Session, job: Job) -> None:
    """Hints for all that is claimable; models that could not be loaded meanwhile are asked for again, since nobody failed a paused job."""
    outbox.add_for(s, s.scalars(_QUEUES, {"job_id": job.id}), job.id)
    trained.load_again(s, job)


def _refuse(job: Job, what: str) -> None:
    if JobStatus(job.status).is_terminal:
        ended = "been cancelled" if job.status == JobStatus.CANCELLED else job.status
        raise Conflict(f"job {job.id} has already {ended} and cannot be {what}", code="job_over", param="id")
    if job.cancel_requested_at is not None:
        raise Conflict(f"job {job.id} is being cancelled and cannot be {what}", code="cancel_requested", param="id")
    if job.status == JobStatus.CREATED:
        raise Conflict(f"job {job.id} waits for its start and cannot be {what}", code="wrong_status", param="id")
