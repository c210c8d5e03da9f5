"""The task that all areas measure on: one bare predictor that classifies questions, from the TREC example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from examples.trec.data import load_split
from examples.trec.program import student_spec

Json = dict[str, Any]


def program() -> Json:
    """The program spec; its one LM is called `student`."""
    return student_spec()


def questions(count: int) -> list[str]:
    """Made-up questions of even length, for an LM that does not read them."""
    return [f"In which river valley of the northern province does station {number:05d} stand ?" for number in range(count)]


def trec(cache: Path, train: int, held_out: int, seed: int) -> tuple[list[Json], list[Json]]:
    """Rows with `question` and `category`, to train on and held out. Raises DataUnavailable where they cannot be fetched."""
    split = load_split(cache, train, held_out, seed)
    return [dict(row) for row in split.train], [dict(row) for row in split.held_out]
