"""Rows that may not fit in memory: sorted in pieces that lie in temporary files, and merged as they are read."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from distill.execute.batches import chunks
from distill.pipeline.prepare import Row

ROWS_IN_MEMORY = 20_000


class DiskShelf:
    """`folder` exists, and belongs to this shelf alone; whoever made it removes it. Up to `most` rows stay in memory."""

    def __init__(self, folder: Path, most: int = ROWS_IN_MEMORY) -> None:
        self._folder = folder
        self._most = most
        self._files = 0

    def sort(self, rows: Iterable[Row], key: Callable[[Row], Any]) -> Iterable[Row]:
        pieces = [self._piece(sorted(some, key=key)) for some in chunks(rows, self._most)]
        return pieces[0] if len(pieces) == 1 else _Merged(pieces, key)

    def keep(self, rows: Iterable[Row]) -> Iterable[Row]:
        pieces = [self._piece(some) for some in chunks(rows, self._most)]
        return pieces[0] if len(pieces) == 1 else _Joined(pieces)

    def _piece(self, rows: list[Row]) -> Iterable[Row]:
        """In a file when there may be more."""
        if len(rows) < self._most:
            return rows
        self._files += 1
        path = self._folder / f"{self._files}.jsonl"
        with path.open("wb") as file:
            file.writelines(orjson.dumps(tuple(row)) + b"\n" for row in rows)
        return _Filed(path)


@dataclass(frozen=True)
class _Filed:
    path: Path

    def __iter__(self) -> Iterator[Row]:
        with self.path.open("rb") as file:
            for line in file:
                yield _row(orjson.loads(line))


@dataclass(frozen=True)
class _Merged:
    pieces: list[Iterable[Row]]
    key: Callable[[Row], Any]

    def __iter__(self) -> Iterator[Row]:
        return heapq.merge(*self.pieces, key=self.key)


@dataclass(frozen=True)
class _Joined:
    pieces: list[Iterable[Row]]

    def __iter__(self) -> Iterator[Row]:
        for piece in self.pieces:
            yield from piece


def _row(values: list[Any]) -> Row:
    predictor, digest, trace_digest, inputs, group, score, order, tokens, labels, ref = values
    return Row(predictor, digest, trace_digest, inputs, group, score, tuple(order), tuple(tokens), labels, tuple(ref))
