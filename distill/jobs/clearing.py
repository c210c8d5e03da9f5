"""Removes the details of a job that is over: what erasures and retention share."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from sqlalchemy import func

from distill.db import Session, unit_of_work
from distill.jobs import erasing_sql, events, lifecycle, repository
from distill.jobs.models import Job

MESSAGE = "What was said here has been erased."


def clear_job(
    job_id: str, stopping: threading.Event, finish: Callable[[Session, Counter[str]], None], over_since: datetime | None = None
) -> bool:
    """Remove the details of a job that is over (since then at the latest), some at a time; `finish` is given how many in the last
    transaction. Stored answers and messages that name the job are the caller's to remove.

    False where it is to be gone on with at the next time: the job is still held, or the process stops.
    """
    for statement in (erasing_sql.SOME_FACTS, erasing_sql.SOME_EVENTS):
        removed = erasing_sql.AT_ONCE
        while removed == erasing_sql.AT_ONCE and not stopping.is_set():
            with unit_of_work() as s:
                if not may_clear(s, job_id, over_since):
                    return False
                removed = s.execute(statement, {"job_id": job_id, "many": erasing_sql.AT_ONCE}).rowcount  # type: ignore[attr-defined]
    if stopping.is_set():
        return False
    with unit_of_work() as s:
        if not may_clear(s, job_id, over_since):
            return False
        job = repository.lock(s, job_id)
        found = Counter(job_details=int(job.erased_at is None), blobs=let_go(s, s.scalars(erasing_sql.JOB_BLOBS, {"job_id": job_id})))
        s.execute(erasing_sql.ITEMS, {"job_id": job_id})
        if s.scalar(erasing_sql.ITEMS_LEFT, {"job_id": job_id}):
            return False
        _empty(s, job)
        finish(s, found)
    return True


def may_clear(s: Session, job_id: str, over_since: datetime | None = None) -> bool:
    """Under its lock, so that it is not retried meanwhile; a holder of the round before is waited for, until the next time."""
    job = repository.lock(s, job_id)
    over = job.finished_at is not None and (over_since is None or job.finished_at < over_since)
    return over and not lifecycle.has_leased(s, job_id)


def _empty(s: Session, job: Job) -> None:
    fault = {"message": MESSAGE, "category": "user", "step": None, "retryable": False}
    for statement in (erasing_sql.CHECKPOINTS, erasing_sql.KEYS, erasing_sql.STEPS):
        s.execute(statement, {"job_id": job.id, "fault": json.dumps(fault)})
    if job.plan is not None:
        job.plan = {**job.plan, "samples": [], "split": ""}
    if job.error is not None:
        job.error = {**fault, "code": job.error["code"], "category": job.error["category"], "step": job.error["step"]}
    job.warnings, job.progress, job.estimate, job.pause_reason = [], None, None, None
    if job.erased_at is None:
        job.erased_at = func.clock_timestamp()
        s.flush()
        events.append(s, job.id, "log", "The details of this job were erased", {"erased": True})
        events.append(s, job.id, "done", f"The job is {job.status}", {"status": job.status})
    s.flush()


def let_go(s: Session, blobs: Iterable[str]) -> int:
    """Have blobs removed at once where no row points at them any more; how many were given."""
    wanted = sorted({digest for digest in blobs if digest})
    s.execute(erasing_sql.ERASED, {"digests": wanted})
    return len(wanted)


def remove_mentions(s: Session, project_id: str, object_id: str) -> None:
    """Remove stored answers and messages that name an object."""
    for statement in erasing_sql.MENTIONS:
        s.execute(statement, {"project_id": project_id, "id": object_id})


def remove_mentions_of_jobs(s: Session, project_id: str, jobs: Sequence[str]) -> None:
    """Remove stored answers and messages that name one of these jobs."""
    for statement in erasing_sql.MENTIONS_OF_JOBS:
        s.execute(statement, {"project_id": project_id, "jobs": list(jobs)})
