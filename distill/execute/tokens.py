"""Tokens of rendered rows, asked of the trainer that will train on them: its tokenizer and its bounds are the ones that count."""

from collections.abc import Mapping, Sequence
from typing import Any

from distill.execute.part import Counted
from distill.execute.work import Troubled
from distill.pipeline.plan import Measure
from distill.pipeline.refusals import Refused, base_model_unusable
from distill.trainers.base import CannotCount, CounterDied, RowTokens, TokenCounts, Trainer


class Scale:
    """Counts rows. `measures` says by what each predictor's rows are measured: one for each training that takes them."""

    def __init__(self, trainers: Mapping[str, Trainer], measures: Mapping[str, tuple[Measure, ...]]) -> None:
        self._trainers = trainers
        self._measures = measures

    def check(self) -> None:
        """Whether every base model can be counted with, and so trained. Raises Refused, Troubled."""
        for measure in dict.fromkeys(measure for each in self._measures.values() for measure in each):
            self._ask(measure, [])

    def count(self, rows: Sequence[Mapping[str, Any]]) -> list[Counted]:
        """Of rows with their `predictor`, in their order. Raises Refused for a base model that is not there, Troubled."""
        counted: dict[int, Counted] = {}
        for measure in dict.fromkeys(measure for row in rows for measure in self._measures[row["predictor"]]):
            places = [at for at, row in enumerate(rows) if measure in self._measures[row["predictor"]]]
            counts = self._ask(measure, [rows[at] for at in places])
            for at, tokens in zip(places, counts.rows, strict=True):
                counted[at] = _worse(counted.get(at), Counted(tokens, counts.longest))
        return [counted.get(at) or Counted(RowTokens(), 0) for at in range(len(rows))]

    def _ask(self, measure: Measure, rows: Sequence[Mapping[str, Any]]) -> TokenCounts:
        plain = [{name: row[name] for name in ("prompt", "completion", "tools") if name in row} for row in rows]
        try:
            return self._trainers[measure.trainer].count(measure.base_model, measure.max_seq_length, plain)
        except CannotCount as error:
            raise Refused(base_model_unusable(measure.base_model, error.message)) from error
        except CounterDied as error:
            raise Troubled("counter_died", str(error)) from error


def _worse(one: Counted | None, other: Counted) -> Counted:
    """Of a row that goes to several trainings: the count by which it cannot be trained on, else the first."""
    return other if one is None or (one.fault is None and other.fault is not None) else one
