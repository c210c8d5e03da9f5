"""Why a budget stops a job, in words and figures: what is spent, what comes next, what raising it would need."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from distill.db import Session, now
from distill.jobs import budget
from distill.jobs.budget import FIELD_OF, Limit
from distill.jobs.models import Job
from distill.jobs.outlook import outlook
from distill.relay import NOTHING, Amount

EXHAUSTED, UNKNOWN, LATE = "budget_exhausted", "usage_unknown", "deadline_passed"
CODES = frozenset({EXHAUSTED, UNKNOWN, LATE})

_KEPT = "All that was made is kept."


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What a holder found: the limit that is in the way, or (`unknown`) that nobody can tell how far it is. `next` is what one more
    rollout is expected to need."""

    limit: Limit
    next: Amount = NOTHING
    unknown: str | None = None
    """Why: the model that does not say what an answer took, or whose price nobody knows."""


def reason(s: Session, job: Job, found: Shortfall) -> dict[str, Any]:
    """`pause_reason` of a locked job."""
    param, how = f"budget.{found.limit}", _patch(job)
    if found.unknown is not None:
        text = f"{found.unknown}, so {param} cannot be kept. Take it away (null) with {how}, then resume. {_KEPT}"
        return {"code": UNKNOWN, "param": param, "message": text}
    field = FIELD_OF[found.limit]
    limit, spent = getattr(budget.limits_of(job), field), getattr(budget.taken_of(job), field)
    step, more = getattr(found.next, field), getattr(outlook(s, job), field)
    raised = None if more is None else _up(found.limit, spent + max(more, step))
    figures = {"limit": limit, "spent": spent, "next": step, "needed": raised}
    text = f"{_state(found.limit, limit, spent, step)} {_needed(found.limit, raised)} with {how}, then resume. {_KEPT}"
    return {"code": EXHAUSTED, "param": param, "message": text, "data": figures}


def late(job: Job) -> dict[str, Any]:
    """`pause_reason` of a job whose deadline has passed."""
    text = f"The deadline has passed. Set budget.deadline later with {_patch(job)}, then resume. {_KEPT}"
    return {"code": LATE, "param": "budget.deadline", "message": text}


def told_again(s: Session, job: Job) -> dict[str, Any] | None:
    """The reason with the figures of now: others may have spent, or given back, since it was first told."""
    old = job.pause_reason
    if old is None or old["code"] != EXHAUSTED:
        return old
    limit: Limit = old["param"].removeprefix("budget.")
    if getattr(budget.limits_of(job), FIELD_OF[limit]) != old["data"]["limit"]:
        return old  # it was changed in between
    return _of_now(s, job, limit, old["data"]["next"])


def still(s: Session, job: Job) -> dict[str, Any] | None:
    """The reason why a locked job would stop again at once if it went on; None where it would not."""
    if job.deadline is not None and job.deadline <= now(s):
        return late(job)
    old = job.pause_reason
    if old is None or old["code"] != EXHAUSTED:
        return None
    limit: Limit = old["param"].removeprefix("budget.")
    free = getattr(budget.limits_of(job) - budget.taken_of(job), FIELD_OF[limit])
    return _of_now(s, job, limit, old["data"]["next"]) if free < old["data"]["next"] else None


def _of_now(s: Session, job: Job, limit: Limit, step: float) -> dict[str, Any]:
    return reason(s, job, Shortfall(limit, Amount(**{FIELD_OF[limit]: step})))


def _state(limit: Limit, most: float, spent: float, step: float) -> str:
    named = {"max_calls": "{} LM calls", "max_tokens": "{} tokens", "max_cost_usd": "${}"}[limit]
    if spent >= most:
        return f"The budget of {named.format(_figure(limit, most))} is spent."
    whole, part, needs = (_figure(limit, value) for value in (most, spent, step))
    return f"Of the budget of {named.format(whole)} {part} are spent, and a rollout needs {needs}."


def _needed(limit: Limit, raised: float | None) -> str:
    if raised is None:
        return f"How much more the job needs cannot be told yet. Raise budget.{limit}"
    return f"At the rate so far the job needs about {_figure(limit, raised)} in all. Raise budget.{limit}"


def _patch(job: Job) -> str:
    return f"PATCH /v1/compile_jobs/{job.id}"


def _up(limit: Limit, value: float) -> float:
    return ceil(value * 10_000) / 10_000 if limit == "max_cost_usd" else ceil(value)


def _figure(limit: Limit, value: float) -> str:
    return f"{value:.4f}" if limit == "max_cost_usd" else f"{ceil(value):,}"
