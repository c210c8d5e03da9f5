"""Lines of files that others made: one may be as long as the file, and none is read into memory whole that is too long to be used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO


def cut_lines(file: IO[bytes], most: int) -> Iterator[bytes]:
    """Every line of a file, with its end; of one that is longer than `most` bytes the first `most` + 1: the length tells that it is cut."""
    while line := file.readline(most + 1):
        yield line
        _skip_rest(file, line, most + 1)


def _skip_rest(file: IO[bytes], piece: bytes, size: int) -> None:
    while len(piece) == size and not piece.endswith(b"\n"):
        piece = file.readline(size)
