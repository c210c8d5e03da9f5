"""What became of a job's rows, for readers: its rollouts with their traces, and what was not kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, case, func, or_, select, text

from distill.catalog.facts import RowFact, Trace
from distill.catalog.row_facts import UNDECIDED
from distill.db import Listing, Page, Session, readable
from distill.errors import Invalid
from distill.jobs.models import Job, JobEvent, WorkItem
from distill.jobs.status import Step

NOT_PASSED = "not_passed"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout of a role on an example; `trace` is None for one that left no fact (a timeout, a full budget)."""

    fact: RowFact
    trace: Trace | None


@dataclass(frozen=True, slots=True)
class Place:
    """Whose facts are read: as values, so that a list can be read page by page without holding a session."""

    project_id: str
    job_id: str


@dataclass(frozen=True, slots=True)
class RolloutFilter:
    """`role` is `teacher`, `baseline`, `compiled`, … or `teacher:0`; `predictor` narrows to traces that called it."""

    role: str | None = None
    passed: bool | None = None
    predictor: str | None = None


@dataclass(frozen=True, slots=True)
class RejectionFilter:
    """With a predictor only calls are listed: a rollout that did not pass is nobody's alone."""

    reason: str | None = None
    predictor: str | None = None


def place_of(job: Job) -> Place:
    return Place(job.project_id, job.id)


def list_rollouts(s: Session, of: Place, page: Page, narrow: RolloutFilter = RolloutFilter()) -> Listing[Rollout]:
    """A job's rollouts by the order in which they were written."""
    query = select(RowFact).where(RowFact.job_id == of.job_id, RowFact.kind == "rollout")
    if narrow.role is not None:
        query = query.where(RowFact.role == narrow.role)
    if narrow.passed is not None:
        query = query.where(RowFact.passed.is_(narrow.passed))
    if narrow.predictor is not None:
        query = query.where(_CALLED.bindparams(project_id=of.project_id, predictor=narrow.predictor))
    facts = _page(s, query, page)
    traces = traces_of(s, of.project_id, facts.data)
    return Listing([Rollout(fact, traces.get(fact.trace_digest or "")) for fact in facts.data], facts.has_more)


# A fact says what its rollout called. Those of earlier releases do not: their traces are read, which are large.
_DATA, _BODY = readable("row_facts.data"), readable("t.body")
_CALLED = text(f"""
CASE WHEN {_DATA} -> 'called' IS NOT NULL
     THEN EXISTS (SELECT 1 FROM json_array_elements_text({_DATA} -> 'called') AS c WHERE c = :predictor)
     ELSE EXISTS (SELECT 1 FROM traces t, json_array_elements({_BODY} -> 'calls') AS c
                   WHERE t.project_id = :project_id AND t.digest = row_facts.trace_digest AND c ->> 'predictor' = :predictor) END
""")  # noqa: S608 - no value is put in


def list_rejections(s: Session, of: Place, page: Page, narrow: RejectionFilter = RejectionFilter()) -> Listing[RowFact]:
    """Calls that did not become a training row, and the teacher's rollouts that did not pass."""
    failed = and_(RowFact.kind == "rollout", RowFact.role.like("teacher:%"), RowFact.passed.is_not(True))
    query = select(RowFact).where(RowFact.job_id == of.job_id, or_(RowFact.kind == "rejected", failed))
    if narrow.reason is not None:
        query = query.where(or_(RowFact.reason == narrow.reason, and_(failed, why_rejected == narrow.reason)))
    if narrow.predictor is not None:
        query = query.where(RowFact.predictor == narrow.predictor)
    return _page(s, query, page)


def coverage(s: Session, job: Job) -> dict[str, Any] | None:
    """What became of the job's traces, once its training files are put together, or could not be."""
    query = select(WorkItem.result).where(WorkItem.job_id == job.id, WorkItem.step == str(Step.ASSEMBLE), WorkItem.status == "succeeded")
    result = s.scalar(query.order_by(WorkItem.id.desc()).limit(1))
    found = result or ((job.error or {}).get("data") or {})
    report: dict[str, Any] | None = found.get("coverage")
    return report


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


def traces_of(s: Session, project_id: str, facts: Iterable[RowFact]) -> dict[str, Trace]:
    """The traces that facts refer to, by digest."""
    digests = {fact.trace_digest for fact in facts if fact.trace_digest}
    rows = s.scalars(select(Trace).where(Trace.project_id == project_id, Trace.digest.in_(digests)))
    return {row.digest: row for row in rows}


_LACKS = text("""
SELECT EXISTS (SELECT 1 FROM row_facts f
  WHERE f.job_id = :job_id AND f.kind = 'rollout' AND f.role LIKE 'teacher:%' AND f.trace_digest IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM traces t WHERE t.project_id = :project_id AND t.digest = f.trace_digest))""")


def lacks_traces(s: Session, job: Job) -> bool:
    """Whether a trace that a job has taken from its teachers is gone."""
    return bool(s.scalar(_LACKS, {"job_id": job.id, "project_id": job.project_id}))


def curve_points(s: Session, job_id: str) -> dict[str, list[dict[str, Any]]]:
    """`{fine-tune job: points}` that a job's trainings have told so far, in order: at most one a second of each."""
    query = select(JobEvent.data).where(JobEvent.job_id == job_id, JobEvent.type == "train.curve").order_by(JobEvent.seq)
    points: dict[str, list[dict[str, Any]]] = {}
    for data in s.scalars(query):
        if data and "fine_tuning_job" in data:
            points.setdefault(data["fine_tuning_job"], []).append({name: data[name] for name in data if name != "fine_tuning_job"})
    return points
