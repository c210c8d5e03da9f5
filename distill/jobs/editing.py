"""What may change of a job while it stands: its name, its place in line, its metadata, and how far it may go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.catalog import audit
from distill.db import Session
from distill.errors import Conflict, Invalid, Stale
from distill.jobs import budget, budget_checks, events, repository
from distill.jobs.budget import FIELD_OF
from distill.jobs.models import Job
from distill.jobs.status import JobStatus
from distill.spec import Budget, digest


def etag(job: Job) -> str:
    """Of all that `edit` may change, and of nothing else: a job's progress makes no edit stale."""
    return f'"{digest([job.name, job.priority, job.user_metadata, budget.as_asked(job)])[3:19]}"'


@dataclass(frozen=True, slots=True)
class Changes:
    """None leaves a thing as it is; `limits` are fields of the budget, where None takes a limit away."""

    name: str | None = None
    priority: int | None = None
    metadata: Mapping[str, str] | None = None
    limits: Mapping[str, Any] | None = None


def edit(s: Session, project_id: str, job_id: str, changes: Changes, if_match: str | None = None) -> Job:
    """Change a job.

    Raises NotFound, Invalid, Conflict for the budget of a job that is over, Stale when `if_match` names another state of the job.
    """
    repository.get(s, project_id, job_id)
    job = repository.lock(s, job_id)
    if if_match is not None and not _matches(if_match, etag(job)):
        raise Stale(f"job {job.id} was changed since it was read: read it again", param="If-Match")
    if changes.name is not None:
        job.name = changes.name
    if changes.priority is not None:
        job.priority = changes.priority
    if changes.metadata is not None:
        job.user_metadata = dict(changes.metadata)
    if changes.limits:
        _set_budget(s, job, changes.limits)
    s.flush()
    return job


def _matches(header: str, current: str) -> bool:
    """As HTTP compares: any of a list, or `*`."""
    return header.strip() == "*" or current in [tag.strip() for tag in header.split(",")]


def _set_budget(s: Session, job: Job, limits: Mapping[str, Any]) -> None:
    if job.status in (JobStatus.SUCCEEDED, JobStatus.CANCELLED) or job.cancel_requested_at is not None:
        what = f"has {job.status}" if job.status == JobStatus.SUCCEEDED else "is cancelled"
        raise Conflict(f"job {job.id} {what}: its budget does not change any more", code="job_over", param="budget")
    before = budget.as_asked(job)
    wanted = Budget.model_validate({**before, **limits})
    budget_checks.check(s, repository.spec_of(job), wanted, changed=frozenset(limits))
    for limit, field in FIELD_OF.items():
        most, taken = getattr(wanted, limit), getattr(budget.taken_of(job), field)
        if limit in limits and most is not None and most < taken:
            message = f"budget.{limit}: {taken:g} are spent already, or set aside for rollouts that have begun"
            raise Invalid(message, code="budget_below_spent", param=f"budget.{limit}")
    budget.set_limits(job, wanted)
    if (now := budget.as_asked(job)) != before:
        events.append(s, job.id, "log", f"The budget was changed: {_words(now)}", {"budget": now})
        audit.record(s, job.project_id, "budget.changed", job.id, {"from": before, "to": now})


def _words(limits: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in limits.items()) or "no limit"
