"""Labels as a teacher: the program is run, and every predictor call is answered with the gold values of the row. No LM is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy
import pydantic

from stillhouse_programs import prompts
from stillhouse_programs.build import build_program
from stillhouse_programs.collect import Prepared, prepare_program, run_rollout
from stillhouse_programs.protocol import Json
from stillhouse_programs.spec import ProgramSpec, expand
from stillhouse_programs.spec_labels import Label, step_labels


class BadLabel(ValueError):
    """A row lacks a label, or holds one that does not fit the type of its field."""


class _LabelAdapter(dspy.Adapter):
    """Stands in for a prompt adapter. The calls of a spec program come in the order of its steps, one a step."""

    def __init__(self, steps: list[list[Label]]) -> None:
        super().__init__()
        self._steps = steps
        self._row: Mapping[str, Any] = {}
        self._at = 0

    def begin(self, row: Mapping[str, Any]) -> None:
        self._row, self._at = row, 0

    def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        labels, self._at = self._steps[self._at], self._at + 1
        types = {name: info.annotation for name, info in signature.output_fields.items()}
        return [{label.field: _typed(label, types[label.field], label.value(self._row)) for label in labels}]

    async def acall(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        return self(lm, lm_kwargs, signature, demos, inputs)


def _typed(label: Label, annotation: Any, value: Any) -> Any:
    try:
        return pydantic.TypeAdapter(annotation).validate_python(value)
    except pydantic.ValidationError as error:
        column = label.columns[0]
        reason = f"has no `{column}`" if value is None else f"has another `{column}`: {error.errors(include_url=False)[0]['msg']}"
        raise BadLabel(f"the row {reason}") from None


class LabelTeacher:
    """Makes traces of one program from rows. One trace is made at a time."""

    def __init__(self, spec: ProgramSpec) -> None:
        expanded = expand(spec)
        self._adapter = _LabelAdapter(step_labels(expanded))
        program = build_program(expanded)
        program.set_lm(prompts.stand_in_lm())
        self._prepared: Prepared = prepare_program(program, self._adapter)

    async def trace(self, inputs: Json, labels: Json) -> Json:
        """The trace of one row, `failed` where a label is missing or does not fit; no call in it has a raw completion."""
        self._adapter.begin(labels)
        return await run_rollout(self._prepared, inputs, token="")
