"""What became of a job's rows, for readers: its rollouts with their traces, and what was not kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, case, func, or_, select

from distill.catalog.facts import RowFact, Trace
from distill.db import Listing, Page, Session
from distill.errors import Invalid
from distill.jobs.models import Job, JobEvent

NOT_PASSED = "not_passed"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout of a role on an example; `trace` is None for one that left no fact (a timeout, a full budget)."""

    fact: RowFact
    trace: Trace | None


def list_rollouts(s: Session, job: Job, page: Page, *, role: str | None = None, passed: bool | None = None) -> Listing[Rollout]:
    """A job's rollouts by the order in which they were written. `role` is `teacher`, `baseline`, `compiled`, … or `teacher:0`."""
    query = select(RowFact).where(RowFact.job_id == job.id, RowFact.kind == "rollout")
    if role is not None:
        query = query.where(RowFact.role == role)
    if passed is not None:
        query = query.where(RowFact.passed.is_(passed))
    facts = _page(s, query, page)
    traces = _traces(s, job.project_id, {fact.trace_digest for fact in facts.data if fact.trace_digest})
    return Listing([Rollout(fact, traces.get(fact.trace_digest or "")) for fact in facts.data], facts.has_more)


def list_rejections(s: Session, job: Job, page: Page, *, reason: str | None = None) -> Listing[RowFact]:
    """Calls that did not become a training row, and the teacher's rollouts that did not pass."""
    failed = and_(RowFact.kind == "rollout", RowFact.role.like("teacher:%"), RowFact.passed.is_not(True))
    query = select(RowFact).where(RowFact.job_id == job.id, or_(RowFact.kind == "rejected", failed))
    if reason is not None:
        query = query.where(or_(RowFact.reason == reason, and_(failed, why_rejected == reason)))
    return _page(s, query, page)


def reason_of(fact: RowFact) -> str:
    """Why a fact is among the rejections: its reason; or that of its rollout, as `why_rejected` says it to the database.

    A rollout is rejected as `failed` or `unparsable`; by the code of what kept it from being run (`time_limit`, …); or by its score:
    `metric_failed`, `inconclusive`, `not_passed`.
    """
    if fact.reason is not None:
        return fact.reason
    if fact.status == UNDECIDED:
        return (fact.message or UNDECIDED).partition(":")[0]
    if fact.status != "ok":
        return fact.status
    return _BY_SCORE.get(str((fact.data or {}).get("score")), NOT_PASSED)


UNDECIDED = "undecided"
_BY_SCORE = {"failed": "metric_failed", "inconclusive": "inconclusive"}
why_rejected = case(
    (RowFact.status == UNDECIDED, func.split_part(func.coalesce(RowFact.message, UNDECIDED), ":", 1)),
    (RowFact.status != "ok", RowFact.status),
    *[(RowFact.data["score"].as_string() == status, reason) for status, reason in _BY_SCORE.items()],
    else_=NOT_PASSED,
)


def _page(s: Session, query: Select[RowFact], page: Page) -> Listing[RowFact]:
    if page.after is not None:
        query = query.where(RowFact.id < _number(page.after) if page.order == "desc" else RowFact.id > _number(page.after))
    query = query.order_by(RowFact.id.desc() if page.order == "desc" else RowFact.id.asc()).limit(page.limit + 1)
    rows = list(s.scalars(query))
    return Listing(rows[: page.limit], len(rows) > page.limit)


def _number(after: str) -> int:
    try:
        return min(int(after), 2**62)
    except ValueError:
        raise Invalid("after: not a cursor of this list", param="after") from None


def _traces(s: Session, project_id: str, digests: Iterable[Any]) -> dict[str, Trace]:
    rows = s.scalars(select(Trace).where(Trace.project_id == project_id, Trace.digest.in_(list(digests))))
    return {row.digest: row for row in rows}


def curve_points(s: Session, job_id: str) -> dict[str, list[dict[str, Any]]]:
    """`{fine-tune job: points}` that a job's trainings have told so far, in order: at most one a second of each."""
    query = select(JobEvent.data).where(JobEvent.job_id == job_id, JobEvent.type == "train.curve").order_by(JobEvent.seq)
    points: dict[str, list[dict[str, Any]]] = {}
    for data in s.scalars(query):
        if data and "fine_tuning_job" in data:
            points.setdefault(data["fine_tuning_job"], []).append({name: data[name] for name in data if name != "fine_tuning_job"})
    return points
