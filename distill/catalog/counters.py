"""Counters and histograms of metrics: what only grows, written in the transaction of what it counts.

Each increment is a row of its own, so that no two transactions wait for one another; the dispatcher adds rows of the same name and labels
up. The sums are exact, outlive the rows that were counted, and cost the same however many there were.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from sqlalchemy import ARRAY, BigInteger, Double, Identity, Text, insert, text
from sqlalchemy.orm import Mapped, mapped_column

from distill.db import Base, Session

MOST_ROWS = 2000
"""More than this are added up."""
MOST_AT_ONCE = 50_000

_FOLD = text("""
WITH folded AS (
  DELETE FROM counters WHERE id = ANY (ARRAY(SELECT id FROM counters ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED))
  RETURNING name, labels, amount)
INSERT INTO counters (name, labels, amount) SELECT name, labels, sum(amount) FROM folded GROUP BY name, labels
""")
_HAS_MANY = text("SELECT count(*) > :most FROM (SELECT FROM counters LIMIT :most + 1) AS found")
_TOTALS = text("SELECT name, labels, sum(amount) AS amount FROM counters GROUP BY name, labels ORDER BY name, labels")

Labels = tuple[str, ...]


class CounterRow(Base):
    """Part of a sum."""

    __tablename__ = "counters"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    labels: Mapped[list[str]] = mapped_column(ARRAY(Text))
    amount: Mapped[float] = mapped_column(Double)


@dataclass(frozen=True, slots=True)
class Increment:
    """Of a counter, by the values of its labels in their order."""

    name: str
    labels: Labels
    amount: float = 1.0


@dataclass(frozen=True, slots=True)
class Histogram:
    """`bounds` are the upper ends of its buckets; the last one has none."""

    name: str
    bounds: tuple[float, ...]

    def observe(self, labels: Labels, value: float, times: int = 1) -> tuple[Increment, Increment]:
        """The increments of one observation."""
        at = bisect_left(self.bounds, value)
        return Increment(f"{self.name}.bucket", (*labels, str(at)), times), Increment(f"{self.name}.sum", labels, value)

    def read(self, totals: Mapping[str, Mapping[Labels, float]]) -> list[tuple[Labels, list[tuple[str, float]], float]]:
        """Labels, cumulative buckets by their upper ends, and sum of each series."""
        buckets = totals.get(f"{self.name}.bucket", {})
        ends = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        found = []
        for labels, total in totals.get(f"{self.name}.sum", {}).items():
            counts = accumulate(buckets.get((*labels, str(at)), 0.0) for at in range(len(ends)))
            found.append((labels, list(zip(ends, counts, strict=True)), total))
        return found


JOB_SECONDS = Histogram("job_seconds", (10, 60, 300, 900, 3600, 14_400, 43_200, 86_400, 259_200))
STEP_SECONDS = Histogram("step_seconds", (1, 5, 15, 60, 300, 900, 3600, 14_400, 43_200, 86_400))
LM_REQUEST_SECONDS = Histogram("lm_request_seconds", (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300))


def add(s: Session, increments: Iterable[Increment]) -> None:
    """Count, if the caller's transaction commits."""
    rows = [{"name": each.name, "labels": list(each.labels), "amount": each.amount} for each in increments]
    if rows:
        s.execute(insert(CounterRow), rows)


def totals(s: Session) -> dict[str, dict[Labels, float]]:
    """`{name: {labels: sum}}`."""
    found: dict[str, dict[Labels, float]] = {}
    for name, labels, amount in s.execute(_TOTALS):
        found.setdefault(name, {})[tuple(labels)] = amount
    return found


def fold(s: Session) -> None:
    """Add rows up, where there are many."""
    if s.execute(_HAS_MANY, {"most": MOST_ROWS}).scalar_one():
        s.execute(_FOLD, {"most": MOST_AT_ONCE})
