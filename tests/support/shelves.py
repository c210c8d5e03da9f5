"""Rows in memory, where a job would keep them on disk."""

from collections.abc import Callable, Iterable
from typing import Any

from distill.pipeline.prepare import Row


class MemoryShelf:
    def sort(self, rows: Iterable[Row], key: Callable[[Row], Any]) -> list[Row]:
        return sorted(rows, key=key)

    def keep(self, rows: Iterable[Row]) -> list[Row]:
        return list(rows)


def row(
    predictor: str,
    example: int,
    *,
    n: int = 0,
    digest: str | None = None,
    score: float = 1.0,
    group: str | None = None,
    label: str | None = None,
    tokens: tuple[int, int] = (0, 0),
) -> Row:
    """A row of rollout `n` of an example; its group is the example's inputs unless given."""
    trace = f"t{example}.{n}"
    return Row(
        predictor,
        digest or f"{predictor}{trace}",
        trace,
        f"i{example}",
        group or f"i{example}",
        score,
        (0, example, n, 0 if predictor == "classify" else 1),
        tokens,
        {} if label is None else {"category": label},
    )
