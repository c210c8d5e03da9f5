"""The coverage report: what became of the traces, for each key and each predictor whose rows it takes."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distill.pipeline.keys import Key
from distill.pipeline.prepare import Row
from distill.pipeline.refusals import Reason, no_rows_for_predictor, no_rows_kept


@dataclass(frozen=True)
class Seen:
    """What is known before rows are chosen. `called` counts the traces that passed and called a predictor."""

    traces: int
    passed: int
    called: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass
class Tally:
    """The rows of one predictor in one key, counted as they are written. `lengths` counts rows by their tokens."""

    rows: int = 0
    validation_rows: int = 0
    completion_tokens: int = 0
    longest_completion: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    labels: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, row: Row, *, held: bool) -> None:
        self.rows += not held
        self.validation_rows += held
        self.completion_tokens += row.tokens[1]
        self.longest_completion = max(self.longest_completion, row.tokens[1])
        self.lengths[sum(row.tokens)] += 1
        for name, value in row.labels.items():
            self.labels.setdefault(name, Counter())[value] += 1


class Tallies:
    """The rows of one key, by predictor; predictors without a row stand with zeros."""

    def __init__(self, key: Key, predictors: Iterable[str], left_out: Mapping[tuple[str, str], int]) -> None:
        self.key = key
        self._left_out = left_out
        self._each = {name: Tally() for name in predictors}

    def add(self, row: Row, *, held: bool) -> None:
        self._each[row.predictor].add(row, held=held)

    @property
    def trained(self) -> int:
        """How many rows are trained on."""
        return sum(tally.rows for tally in self._each.values())

    @property
    def held(self) -> int:
        """How many rows watch the training."""
        return sum(tally.validation_rows for tally in self._each.values())

    def report(self, seen: Seen) -> dict[str, Any]:
        """The key's part of the report."""
        each = self._each.values()
        lengths = sum((tally.lengths for tally in each), Counter[int]())
        longest = max((tally.longest_completion for tally in each), default=0)
        return {
            "lm": self.key.lm,
            "predictor": self.key.predictor,
            "rows": self.trained,
            "validation_rows": self.held,
            "tokens": _tokens(lengths, sum(tally.completion_tokens for tally in each), longest),
            "predictors": {name: self._predictor(name, tally, seen) for name, tally in self._each.items()},
        }

    def _predictor(self, name: str, tally: Tally, seen: Seen) -> dict[str, Any]:
        return {
            "traces": seen.called.get(name, 0),
            "rows": tally.rows,
            "validation_rows": tally.validation_rows,
            "rejected": _of(name, seen.rejected),
            "left_out": _of(name, self._left_out),
            "tokens": _tokens(tally.lengths, tally.completion_tokens, tally.longest_completion),
            "labels": {label: dict(sorted(counts.items(), key=_commonest)) for label, counts in tally.labels.items()},
        }


def coverage(seen: Seen, keys: Iterable[Tallies]) -> dict[str, Any]:
    """The whole report: `{"traces", "passed", "keys": […]}`."""
    return {"traces": seen.traces, "passed": seen.passed, "keys": [key.report(seen) for key in keys]}


def refuse(report: Mapping[str, Any], min_score: float, scores: Iterable[float | None]) -> Reason | None:
    """The reason to stop before training: no trace passed, or a key has no rows. `scores` is read in the first case only."""
    if not report["passed"]:
        return no_rows_kept(report["traces"], min_score, scores, report)
    bare = [name for key in report["keys"] if not key["rows"] + key["validation_rows"] for name in key["predictors"]]
    return no_rows_for_predictor(bare, report) if bare else None


def _of(name: str, counts: Mapping[tuple[str, str], int]) -> dict[str, int]:
    return {why: count for (predictor, why), count in sorted(counts.items()) if predictor == name}


def _commonest(entry: tuple[str, int]) -> tuple[int, str]:
    return -entry[1], entry[0]


def _tokens(lengths: Counter[int], completion: int, longest_completion: int) -> dict[str, int]:
    """Over the rows of both sides; a percentile is the length of a row that is there."""
    total = sum(length * count for length, count in lengths.items())
    return {
        "sum": total,
        "completion_sum": completion,
        "completion_max": longest_completion,
        "p50": percentile(lengths, 0.5),
        "p95": percentile(lengths, 0.95),
        "max": max(lengths, default=0),
    }


def percentile(lengths: Mapping[int, int], share: float) -> int:
    """The smallest length that at least `share` of the rows do not exceed; 0 without rows."""
    rest = share * sum(lengths.values())
    for length in sorted(lengths):
        rest -= lengths[length]
        if rest <= 0:
            return length
    return 0
