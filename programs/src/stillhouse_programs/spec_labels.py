"""Which columns of a row hold the gold values of a program's answers, for a job in which the labels teach. Works without dspy."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stillhouse_programs.spec_models import FieldSpec, FromRef, JsonObject, ProgramSpec, StepSpec
from stillhouse_programs.spec_rows import input_columns


@dataclass(frozen=True)
class Label:
    """The gold value of one output field of one step. `columns` may hold it, the best name first; the first that is there counts."""

    field: str
    schema: JsonObject
    columns: tuple[str, ...]

    def value(self, row: Mapping[str, Any]) -> Any:
        """The value in a row; None where it lacks one."""
        return next((row[name] for name in self.columns if row.get(name) is not None), None)


def step_labels(spec: ProgramSpec) -> list[list[Label]]:
    """For each step of an expanded spec, in order, the labels of its predictor's outputs.

    A field that the program returns is looked for under the name of the program's output. Any other is looked for under its own name,
    where no input, output or other step has that name too, and under `<predictor>.<field>`; for a predictor that is called by several
    steps that is `<step id>.<field>`.
    """
    naming = _Naming(spec)
    return [
        [Label(field.name, field.json_schema, naming.columns(step, field)) for field in _outputs(spec, step)] for step in spec.steps or []
    ]


def _outputs(spec: ProgramSpec, step: StepSpec) -> list[FieldSpec]:
    predictor = spec.predictor(step.predictor)
    return predictor.signature.of_role("output") if predictor else []


class _Naming:
    """Which names stand for what in the rows of one program."""

    def __init__(self, spec: ProgramSpec) -> None:
        steps = spec.steps or []
        self._inputs = input_columns(spec)
        self._outputs = spec.outputs or {}
        self._calls = Counter(step.predictor for step in steps)
        self._inner = Counter(
            field.name for step in steps for field in _outputs(spec, step) if not self._returned(step, field)
        )  # how many steps have a field of that name which only they know

    def columns(self, step: StepSpec, field: FieldSpec) -> tuple[str, ...]:
        owner = step.predictor if self._calls[step.predictor] == 1 else step.id
        return (*(self._returned(step, field) or self._plain(field)), f"{owner}.{field.name}")

    def _returned(self, step: StepSpec, field: FieldSpec) -> list[str]:
        path = f"{step.id}.{field.name}"
        found = [name for name, source in self._outputs.items() if isinstance(source, FromRef) and source.from_ == path]
        return [name for name in found if name not in self._inputs]

    def _plain(self, field: FieldSpec) -> list[str]:
        alone = self._inner[field.name] == 1 and field.name not in self._inputs and field.name not in self._outputs
        return [field.name] if alone else []
