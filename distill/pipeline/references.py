"""Answers that ask no model: the commonest label, and a text classifier. A program that does not beat them is of no use."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.pipeline.labels import choices
from distill.pipeline.plan import inputs_of
from stillhouse_programs.spec import MetricSpec, ProgramSpec, metric_fields

MOST_LABELS = 200
FEWEST_EACH = 5
LONGEST_TEXT = 5_000
Predict = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True)
class Labelled:
    """The inputs of a row as one text, and its label."""

    text: str
    label: str


@dataclass(frozen=True)
class LabelField:
    """The field of the rows that has the label; `is_closed` when its type says which values there are."""

    name: str
    is_closed: bool

    def of(self, program: ProgramSpec, row: Mapping[str, Any]) -> Labelled | None:
        """None for a row without a label."""
        if row.get(self.name) is None:
            return None
        return Labelled("\n".join(map(_text, inputs_of(program, row).values()))[:LONGEST_TEXT], _text(row[self.name]))

    def has_labels(self, rows: Sequence[Labelled]) -> bool:
        """Whether what stands there are labels: some values that come again and again."""
        kinds = len({row.label for row in rows})
        return 1 < kinds <= MOST_LABELS and (self.is_closed or kinds * FEWEST_EACH <= len(rows))


def label_field(metric: MetricSpec, program: ProgramSpec, names: Collection[str]) -> LabelField | None:
    """Which of the fields that are no inputs the program is to answer: the metric's one, or the only one, or the only one with a closed set
    of values. None where that is not plain."""
    closed = {name for fields in choices(program).values() for name in fields}
    candidates = [name for name in names if name in (metric_fields(metric) or names)]
    if len(candidates) > 1:
        candidates = [name for name in candidates if name in closed]
    return LabelField(candidates[0], candidates[0] in closed) if len(candidates) == 1 else None


def majority_class(rows: Sequence[Labelled]) -> Predict:
    """Always the commonest label; of equally common ones the first by name."""
    counts = Counter(row.label for row in rows)
    label = min(counts, key=lambda each: (-counts[each], each))
    return lambda texts: [label] * len(texts)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
