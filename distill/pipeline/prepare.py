"""Which traces become training rows, and which of those rows go into which training file.

Rows come and go as streams: a job may have more of them than fit in memory. What has to be sorted or read twice lies on a Shelf.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from distill.pipeline.keys import Key


@dataclass(frozen=True)
class Filter:
    """Which rows are kept: the bar, at most `top_k` different answers to equal inputs, at most `max_rows` rows a key, no two equal rows."""

    min_score: float = 1.0
    top_k: int | None = None
    max_rows: int | None = None
    dedup: bool = True


class Row(NamedTuple):
    """The facts of one rendered row; its text stays where `ref` says (part, offset, length).

    `inputs` and `group` are digests: of the example's inputs, and of what stays on one side. `order` is (teacher, example, rollout, call),
    `tokens` (prompt, completion), `labels` what was answered in fields with a closed set of values.
    """

    predictor: str
    digest: str
    trace_digest: str
    inputs: str
    group: str
    score: float | None
    order: tuple[int, int, int, int]
    tokens: tuple[int, int] = (0, 0)
    labels: Mapping[str, str] = {}
    ref: tuple[str, int, int] = ("", 0, 0)


class Shelf(Protocol):
    """Where rows lie that may not fit in memory. What it returns can be read several times."""

    def sort(self, rows: Iterable[Row], key: Callable[[Row], Any]) -> Iterable[Row]:
        """The rows in the order of `key`."""
        ...

    def keep(self, rows: Iterable[Row]) -> Iterable[Row]:
        """The rows as they come."""
        ...


@dataclass(frozen=True)
class Settled:
    """The rows of one key in the order of its files, both sides. `left_out` counts what was rendered and not kept: (predictor, why)."""

    key: Key
    rows: Iterable[Row]
    left_out: Mapping[tuple[str, str], int]


def passes(status: str, score: Mapping[str, Any] | None, min_score: float, *, scored: bool) -> bool:
    """Whether a trace may become rows. Without a metric every `ok` trace may."""
    if status != "ok":
        return False
    if not scored:
        return True
    return score is not None and score["status"] == "ok" and score["value"] is not None and float(score["value"]) >= min_score


def settle(key: Key, rows: Iterable[Row], keep: Filter, seed: int, shelf: Shelf) -> Settled:
    """Filter and shuffle the rows of one key; the same rows give the same order whatever order they arrive in.

    Equal rows have one place in the shuffle, so twins stand side by side there.
    """
    left_out: Counter[tuple[str, str]] = Counter()
    if keep.top_k is not None:
        rows = _top_traces(shelf.sort(rows, lambda row: (row.inputs, row.order)), keep.top_k, keep.dedup, left_out)
    mixed = shelf.sort(rows, lambda row: (_shuffle_place(row.digest, seed), row.order))
    if keep.dedup:
        mixed = _without_twins(mixed, left_out)
    return Settled(key, shelf.keep(_first(mixed, keep.max_rows, left_out)), left_out)


def _top_traces(rows: Iterable[Row], top_k: int, dedup: bool, left_out: Counter[tuple[str, str]]) -> Iterator[Row]:
    """Of the rows of equal inputs, which stand together, those of the best traces; with `dedup`, traces that give equal rows count once."""
    for _, some in groupby(rows, key=lambda row: row.inputs):
        traces: dict[str, list[Row]] = {}
        for row in some:
            traces.setdefault(row.trace_digest, []).append(row)
        taken: set[frozenset[str]] = set()
        for trace in sorted(traces.values(), key=lambda each: min(map(_rank, each))):
            content = frozenset(row.digest for row in trace) if dedup else frozenset({trace[0].trace_digest})
            if content in taken or len(taken) < top_k:
                taken.add(content)
                yield from trace
            else:
                left_out.update((row.predictor, "top_k") for row in trace)


def _rank(row: Row) -> tuple[float, tuple[int, ...]]:
    return -(row.score if row.score is not None else 0.0), row.order[:3]


def _without_twins(rows: Iterable[Row], left_out: Counter[tuple[str, str]]) -> Iterator[Row]:
    last = None
    for row in rows:
        if row.digest == last:
            left_out[row.predictor, "duplicate"] += 1
        else:
            yield row
        last = row.digest


def _first(rows: Iterable[Row], most: int | None, left_out: Counter[tuple[str, str]]) -> Iterator[Row]:
    for at, row in enumerate(rows):
        if most is None or at < most:
            yield row
        else:
            left_out[row.predictor, "max_rows"] += 1


def _shuffle_place(digest: str, seed: int) -> str:
    return sha256(f"{seed}:{digest}".encode()).hexdigest()
