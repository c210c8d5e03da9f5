"""What a project has used, and may use: jobs at once, and teacher money and compute-seconds of a month.

Asked when a job is made, started, resumed and retried. A job that runs is not stopped by them: its own budget does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import Any

from sqlalchemy import select, text

from distill.catalog import project_limits
from distill.catalog.models import Project
from distill.db import Session, now
from distill.errors import NotFound, QuotaExceeded
from distill.ids import first_id
from distill.jobs import collecting, maintenance

A_MINUTE = 60
_GB = 1_000_000_000

_ONE_BY_ONE = text("SELECT pg_advisory_xact_lock(hashtextextended('jobs of ' || :project_id, 0))")
_BLOB_BYTES = text(f"SELECT COALESCE(sum(size_bytes), 0) FROM blobs WHERE digest IN ({collecting.OF_PROJECT})")  # noqa: S608 - no value is put in
_OPEN = text("""
SELECT count(*) FROM jobs WHERE project_id = :project_id AND status IN ('created', 'queued', 'running', 'paused')
""")
_LMS = text("""
SELECT COALESCE(sum(calls), 0) AS calls, COALESCE(sum(prompt_tokens), 0) AS prompt_tokens,
       COALESCE(sum(completion_tokens), 0) AS completion_tokens,
       COALESCE(sum(usd) FILTER (WHERE role LIKE 'teacher%'), 0) AS teacher_usd,
       array_agg(DISTINCT model ORDER BY model) FILTER (WHERE usd IS NULL AND role LIKE 'teacher%') AS unpriced
  FROM lm_usage WHERE project_id = :project_id AND kind = 'paid' AND created_at >= :since AND created_at < :until
""")
_COMPUTE = text("""
SELECT COALESCE(sum(earlier_seconds + CASE WHEN reused_from IS NULL
                        THEN GREATEST(trained_seconds, COALESCE(CAST(result ->> 'seconds' AS float), 0)) ELSE 0 END), 0)
  FROM fine_tune_jobs
 WHERE project_id = :project_id AND started_at IS NOT NULL
   AND COALESCE(finished_at, :at) >= :since AND COALESCE(finished_at, :at) < :until
""")
_MADE = text("""
SELECT (SELECT count(*) FROM jobs WHERE project_id = :project_id AND id >= :first_job AND id < :next_job) AS jobs,
       (SELECT count(*) FROM traces WHERE project_id = :project_id AND id >= :first_trace AND id < :next_trace)
       + COALESCE((SELECT rollouts FROM removed_rollouts WHERE project_id = :project_id AND month = :month), 0) AS rollouts
""")


@dataclass(frozen=True, slots=True)
class Month:
    """One month of UTC, from its first moment up to that of the next."""

    since: datetime
    until: datetime

    @classmethod
    def of(cls, when: datetime) -> Month:
        since = when.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return cls(since, since.replace(year=since.year + since.month // 12, month=since.month % 12 + 1))

    def __str__(self) -> str:
        return f"{self.since:%Y-%m}"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a project used in a month. `unpriced` are teachers whose price nobody has named: their calls are not in the money."""

    month: Month
    jobs: int
    rollouts: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    teacher_usd: float
    compute_seconds: float
    unpriced: tuple[str, ...]


def usage(s: Session, project_id: str, month: Month) -> Usage:
    """By what was stored: a rollout that was reused is none, and one of a worker that was lost counts as far as it was kept."""
    since, until = month.since, month.until
    at = now(s)
    lms = s.execute(_LMS, {"project_id": project_id, "since": since, "until": until}).one()
    ids = {
        "first_job": first_id("cjob", since),
        "next_job": first_id("cjob", until),
        "first_trace": first_id("trace", since),
        "next_trace": first_id("trace", until),
        "month": since.date(),
    }
    made = s.execute(_MADE, {"project_id": project_id, **ids}).one()
    return Usage(
        month=month,
        jobs=made.jobs,
        rollouts=made.rollouts,
        calls=int(lms.calls),
        prompt_tokens=int(lms.prompt_tokens),
        completion_tokens=int(lms.completion_tokens),
        teacher_usd=round(float(lms.teacher_usd), 6),
        compute_seconds=round(_compute(s, project_id, month, at), 1),
        unpriced=tuple(lms.unpriced or ()),
    )


def open_jobs(s: Session, project_id: str) -> int:
    """Its jobs that are not over."""
    return int(s.scalar(_OPEN, {"project_id": project_id}) or 0)


def check_new_job(s: Session, project_id: str) -> None:
    """Whether the project may have one job more; until the transaction ends nobody else asks. Raises QuotaExceeded, Unavailable."""
    maintenance.check_open(s)
    hold_jobs(s, project_id)
    quota = _Quota.read(s, project_id)
    if (have := open_jobs(s, project_id)) >= quota.values["max_jobs"]:
        message = (
            f"Project {quota.project} has {have} jobs that are not over, as many as it may ({quota.where('max_jobs')}). "
            "It may have another one as soon as one of them is over: wait, or cancel one."
        )
        raise QuotaExceeded(message, retry_after=A_MINUTE)
    _check_blobs(s, project_id, quota)
    _check_month(s, project_id, quota)


def hold_jobs(s: Session, project_id: str) -> None:
    """Until the transaction ends nobody else makes a job of the project, or has one go on."""
    s.execute(_ONE_BY_ONE, {"project_id": project_id})


def blob_bytes(s: Session, project_id: str) -> int:
    """What its blobs take up; one that several of its objects share counts once."""
    return int(s.scalar(_BLOB_BYTES, {"project_id": project_id}) or 0)


def check_blobs(s: Session, project_id: str) -> None:
    """Whether the project's blobs, with what this transaction adds, are within its limit. Raises QuotaExceeded."""
    _check_blobs(s, project_id, _Quota.read(s, project_id))


def check_month(s: Session, project_id: str) -> None:
    """Whether the project may go on spending this month. Raises QuotaExceeded, which says from when on it may."""
    _check_month(s, project_id, _Quota.read(s, project_id))


def _check_blobs(s: Session, project_id: str, quota: _Quota) -> None:
    most = quota.values["max_blob_gb"]
    if most is None or (have := blob_bytes(s, project_id)) <= most * _GB:
        return
    message = (
        f"Project {quota.project} would store {have / _GB:,.3f} GB, more than the {most:,g} GB that it may ({quota.where('max_blob_gb')}). "
        "Delete datasets, files, artifacts or jobs that are not needed, or ask an operator for more."
    )
    raise QuotaExceeded(message, retry_after=A_MINUTE)


def _check_month(s: Session, project_id: str, quota: _Quota) -> None:
    at = now(s)
    month = Month.of(at)
    teacher = float(s.execute(_LMS, {"project_id": project_id, "since": month.since, "until": month.until}).one().teacher_usd)
    if teacher >= (most := quota.values["month_teacher_usd"]):
        spent = f"spent ${teacher:.2f} of ${most:.2f} on teachers"
        raise _until(month, at, f"Project {quota.project} has {spent} ({quota.where('month_teacher_usd')})")
    compute = _compute(s, project_id, month, at)
    if compute >= (most := quota.values["month_compute_seconds"]):
        spent = f"trained {compute:.0f} of {most:.0f} compute-seconds"
        raise _until(month, at, f"Project {quota.project} has {spent} ({quota.where('month_compute_seconds')})")


@dataclass(frozen=True, slots=True)
class _Quota:
    """What a project may use now."""

    project: str
    values: Mapping[str, Any]
    sources: Mapping[str, str]

    @classmethod
    def read(cls, s: Session, project_id: str) -> _Quota:
        query = select(Project).where(Project.id == project_id, Project.deleted_at.is_(None))
        project = s.scalar(query.execution_options(populate_existing=True))
        if project is None:
            raise NotFound(f"no project {project_id}", code="project_not_found")
        limits = project_limits.of(project)
        return cls(project.name, limits.values, limits.sources)

    def where(self, name: str) -> str:
        """How to find the limit that is in the way."""
        return f"{name}, set by an operator" if self.sources[name] == "api" else f"[projects.{self.project}] {name}"


def _compute(s: Session, project_id: str, month: Month, at: datetime) -> float:
    return float(s.scalar(_COMPUTE, {"project_id": project_id, "since": month.since, "until": month.until, "at": at}) or 0.0)


def _until(month: Month, at: datetime, what: str) -> QuotaExceeded:
    left = max(1, ceil((month.until - at).total_seconds()))
    return QuotaExceeded(f"{what} this month. It resets on {month.until:%Y-%m-%d %H:%M} UTC.", retry_after=left)
