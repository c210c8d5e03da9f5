"""What the trainer's own choice of options rests on: how many rows there are, and how their answers repeat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from engines.schemas import TrainingRow

REPEATED = 3
"""Rows that an answer has on average from which on answers are taken for labels."""


@dataclass(frozen=True)
class RowFacts:
    """``answers`` are the different ones among the rows'."""

    rows: int
    answers: int

    @property
    def has_labels(self) -> bool:
        """Whether the rows answer with one of a few things, and not each in its own words."""
        return self.answers * REPEATED <= self.rows


def facts_of(lines: Iterable[str | bytes]) -> RowFacts:
    """Of the rows in a JSONL file. Raises ValueError for a line that is none."""
    answers = Counter(_answer(line) for line in lines if line.strip())
    return RowFacts(answers.total(), len(answers))


def _answer(line: str | bytes) -> tuple[str, ...]:
    return tuple(message.model_dump_json() for message in TrainingRow.model_validate_json(line).completion)
