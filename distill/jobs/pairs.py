"""Held-out examples one by one: what the compiled program answered, beside what another role answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, Float, Select, and_, case, cast, null, or_, select
from sqlalchemy.orm import aliased

from distill.catalog.facts import RowFact, Trace
from distill.catalog.row_facts import UNDECIDED
from distill.db import Listing, Page, Session
from distill.errors import Invalid
from distill.jobs.facts import traces_of
from distill.jobs.models import Job

Change = Literal["fix", "regression", "same", "undecided"]


@dataclass(frozen=True, slots=True)
class Side:
    """One role's rollout of an example; `score` is None where nobody could decide."""

    fact: RowFact
    trace: Trace | None
    score: float | None


@dataclass(frozen=True, slots=True)
class Pair:
    """`example` is the 0-based row of the dataset that the holdout comes from."""

    example: int
    compiled: Side
    other: Side

    @property
    def difference(self) -> float | None:
        ours, theirs = self.compiled.score, self.other.score
        return None if ours is None or theirs is None else ours - theirs

    @property
    def change(self) -> Change:
        difference = self.difference
        if difference is None:
            return "undecided"
        return "fix" if difference > 0 else "regression" if difference < 0 else "same"


def score_of(fact: RowFact) -> float | None:
    """What a rollout counts for: a failed or unparsable answer scores 0, as does one that broke the metric."""
    if fact.status == UNDECIDED:
        return None
    judged = (fact.data or {}).get("score")
    if fact.status != "ok" or judged == "failed":
        return 0.0
    return fact.score if judged == "ok" else None


def list_pairs(s: Session, job: Job, against: str, page: Page, change: Change | None = None) -> Listing[Pair]:
    """The examples that both roles have run, by row. Raises Invalid for a cursor that is no row."""
    ours, theirs = aliased(RowFact), aliased(RowFact)
    same = and_(theirs.job_id == ours.job_id, theirs.kind == "rollout", theirs.role == against, theirs.example_index == ours.example_index)
    query = select(ours, theirs).join(theirs, same).where(ours.job_id == job.id, ours.kind == "rollout", ours.role == "compiled")
    if change is not None:
        query = query.where(_changed(_score(ours), _score(theirs), change))
    rows = [(compiled, other) for compiled, other in s.execute(_page(query, ours, page))]
    shown = rows[: page.limit]
    traces = traces_of(s, job.project_id, [fact for pair in shown for fact in pair])
    return Listing([Pair(a.example_index, _side(a, traces), _side(b, traces)) for a, b in shown], len(rows) > page.limit)


def _score(fact: type[RowFact]) -> ColumnElement[float | None]:
    """`score_of`, for the database."""
    judged = fact.data["score"].as_string()
    return case(
        (fact.status == UNDECIDED, cast(null(), Float)),
        (or_(fact.status != "ok", judged == "failed"), 0.0),
        (judged == "ok", fact.score),
        else_=cast(null(), Float),
    )


def _changed(ours: ColumnElement[float | None], theirs: ColumnElement[float | None], change: Change) -> ColumnElement[bool]:
    return {
        "fix": ours > theirs,
        "regression": ours < theirs,
        "same": ours == theirs,
        "undecided": or_(ours.is_(None), theirs.is_(None)),
    }[change]


def _page(query: Select[RowFact, RowFact], fact: type[RowFact], page: Page) -> Select[RowFact, RowFact]:
    row, down = fact.example_index, page.order == "desc"
    if page.after is not None:
        last = _row_number(page.after) - 1
        query = query.where(row < last if down else row > last)
    return query.order_by(row.desc() if down else row.asc()).limit(page.limit + 1)


def _row_number(after: str) -> int:
    if not after.isdecimal() or len(after) > 9:
        raise Invalid("after: not a cursor of this list", param="after")
    return int(after)


def _side(fact: RowFact, traces: dict[str, Trace]) -> Side:
    return Side(fact, traces.get(fact.trace_digest or ""), score_of(fact))
