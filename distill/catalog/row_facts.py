"""What became of each rollout and each training row of a job: the traces, rejections and evaluations that readers page through."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Row, Select, func, select
from sqlalchemy.orm import InstrumentedAttribute

from distill.catalog.copying import clean, copy_in
from distill.catalog.facts import RowFact
from distill.db import Listing, Session

Kind = Literal["rollout", "kept", "rejected"]
UNDECIDED = "undecided"
"""Status of a rollout that could not be run: no fact about the program, only about this job."""
_COLUMNS = (
    "job_id", "kind", "role", "example_index", "rollout", "call", "predictor", "trace_digest", "row_digest", "status", "score", "passed",
    "reused", "reason", "message", "data", "created_at",
)  # fmt: skip
_KEY = ("job_id", "kind", "role", "example_index", "rollout", "call")


@dataclass(frozen=True, slots=True)
class NewFact:
    """One fact. `example_index` is 0-based in the trainset or valset; `call` is -1 for a whole rollout."""

    job_id: str
    kind: Kind
    role: str
    example_index: int
    rollout: int
    status: str
    call: int = -1
    predictor: str | None = None
    trace_digest: str | None = None
    row_digest: str | None = None
    score: float | None = None
    passed: bool | None = None
    reused: bool | None = None
    reason: str | None = None
    message: str | None = None
    data: Mapping[str, Any] | None = None


def store(s: Session, facts: Sequence[NewFact]) -> int:
    """Write facts by COPY. A fact that is told again replaces the earlier one: the work was done again."""
    return copy_in(s, "row_facts", _COLUMNS, (_values(fact) for fact in facts), _KEY, replace=True) if facts else 0


def _values(fact: NewFact) -> tuple[Any, ...]:
    return (
        fact.job_id, fact.kind, fact.role, fact.example_index, fact.rollout, fact.call, fact.predictor, fact.trace_digest,
        fact.row_digest, fact.status, fact.score, fact.passed, fact.reused, fact.reason, clean(fact.message),
        None if fact.data is None else json.dumps(fact.data), "now",
    )  # fmt: skip


def page(
    s: Session, job_id: str, kind: Kind, *, role: str | None = None, after: int = 0, limit: int = 20, reason: str | None = None
) -> Listing[RowFact]:
    """Facts of one kind in the order they were written, from `after` (a fact's id) on."""
    query = _of(job_id, kind, role).where(RowFact.id > after)
    if reason is not None:
        query = query.where(RowFact.reason == reason)
    rows = list(s.scalars(query.order_by(RowFact.id).limit(limit + 1)))
    return Listing(rows[:limit], len(rows) > limit)


def decided(s: Session, job_id: str, role: str) -> int:
    """How many examples of a role have been run to their end."""
    query = select(func.count(RowFact.example_index.distinct())).where(RowFact.job_id == job_id, RowFact.kind == "rollout")
    return int(s.scalar(query.where(RowFact.role == role, RowFact.status != UNDECIDED)) or 0)


def every(s: Session, job_id: str, kind: Kind, role: str | None = None) -> list[RowFact]:
    """All facts of one kind, by example, rollout and call."""
    return list(s.scalars(_of(job_id, kind, role).order_by(RowFact.role, RowFact.example_index, RowFact.rollout, RowFact.call)))


def stream(
    s: Session, job_id: str, kind: Kind, *columns: InstrumentedAttribute[Any], predictors: Sequence[str] | None = None
) -> Iterator[Row[Any]]:
    """Some columns of all facts of one kind, in no order, a few thousand at a time: a job may have as many as its trainset has rows."""
    query = select(*columns).where(RowFact.job_id == job_id, RowFact.kind == kind)
    if predictors is not None:
        query = query.where(RowFact.predictor.in_(predictors))
    return iter(s.execute(query.execution_options(yield_per=2000)))


def reasons(s: Session, job_id: str) -> dict[str, int]:
    """How many rows were rejected, by reason."""
    query = select(RowFact.reason, func.count()).where(RowFact.job_id == job_id, RowFact.kind == "rejected").group_by(RowFact.reason)
    return {str(reason): count for reason, count in s.execute(query.order_by(func.count().desc(), RowFact.reason))}


def rejections_by_predictor(s: Session, job_id: str) -> dict[tuple[str, str], int]:
    """How many rows were rejected, by (predictor, reason)."""
    query = select(RowFact.predictor, RowFact.reason, func.count()).where(RowFact.job_id == job_id, RowFact.kind == "rejected")
    rows = s.execute(query.group_by(RowFact.predictor, RowFact.reason))
    return {(str(predictor), str(reason)): count for predictor, reason, count in rows}


def traces_by_predictor(s: Session, job_id: str) -> dict[str, int]:
    """In how many of the rendered rollouts each predictor was called."""
    rollouts = select(RowFact.predictor, RowFact.role, RowFact.example_index, RowFact.rollout).distinct()
    calls = rollouts.where(RowFact.job_id == job_id, RowFact.kind.in_(("kept", "rejected"))).subquery()
    rows = s.execute(select(calls.c.predictor, func.count()).group_by(calls.c.predictor))
    return {str(predictor): count for predictor, count in rows}


def _of(job_id: str, kind: Kind, role: str | None) -> Select[RowFact]:
    query = select(RowFact).where(RowFact.job_id == job_id, RowFact.kind == kind)
    return query if role is None else query.where(RowFact.role == role)
