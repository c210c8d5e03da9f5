"""Scores: what a metric said of a trace beside an example. Kept apart from traces, so a new metric re-scores without a new call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from sqlalchemy import select, tuple_

from distill.catalog.copying import clean, copy_in
from distill.catalog.facts import Score
from distill.db import Session

_COLUMNS = ("project_id", "trace_digest", "metric_digest", "example_digest", "value", "status", "feedback", "error", "created_at")
_KEY = ("project_id", "trace_digest", "metric_digest", "example_digest")
_FAILED = sql.SQL("scores.status = 'failed' AND (scores.status, scores.error) IS DISTINCT FROM (EXCLUDED.status, EXCLUDED.error)")
_AT_ONCE = 2000
"""PostgreSQL takes no statement with some ten thousand pairs, and a slice may have 512 examples of 64 rollouts."""
Pair = tuple[str, str]
"""(trace digest, example digest)."""


@dataclass(frozen=True, slots=True)
class NewScore:
    """A score to be stored: `score` is the runner's JSON. Its `passed` is not kept, since it depends on the job's `min_score`."""

    project_id: str
    trace_digest: str
    metric_digest: str
    example_digest: str
    score: Mapping[str, Any]


def lookup(s: Session, project_id: str, metric_digest: str, pairs: Iterable[Pair], min_score: float) -> dict[Pair, dict[str, Any]]:
    """Stored scores in the runner's form, with `passed` by this `min_score`; absent ones are not in the result."""
    wanted = list(pairs)
    theirs = select(Score).where(Score.project_id == project_id, Score.metric_digest == metric_digest)
    found = {}
    for at in range(0, len(wanted), _AT_ONCE):
        query = theirs.where(tuple_(Score.trace_digest, Score.example_digest).in_(wanted[at : at + _AT_ONCE]))
        found.update({(row.trace_digest, row.example_digest): as_json(row, min_score) for row in s.scalars(query)})
    return found


def as_json(row: Score, min_score: float) -> dict[str, Any]:
    # A rollout without an answer has the score 0 with an error: it passes no bar, however low.
    passed = row.status == "ok" and row.error is None and row.value is not None and row.value >= min_score
    return {"value": row.value, "passed": passed, "status": row.status, "feedback": row.feedback, "error": row.error}


def store(s: Session, rows: Sequence[NewScore], *, over_failed: bool = False) -> int:
    """Store scores by COPY; those that are there already stay, save failed ones with `over_failed`. Returns how many are new."""
    return copy_in(s, "scores", _COLUMNS, (_values(row) for row in rows), _KEY, replace=over_failed and _FAILED) if rows else 0


def _values(row: NewScore) -> tuple[Any, ...]:
    score = row.score
    value = score["value"] if score["status"] == "ok" else None
    return (
        row.project_id, row.trace_digest, row.metric_digest, row.example_digest, value, score["status"],
        clean(score.get("feedback")), clean(score.get("error")), "now",
    )  # fmt: skip
