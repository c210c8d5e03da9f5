"""What a row of a trainset must hold for a program, checked without dspy."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stillhouse_programs.schema_values import value_fault
from stillhouse_programs.spec_checks import INPUT, references, schema_at
from stillhouse_programs.spec_models import FieldSpec, FromRef, JsonObject, ProgramSpec, Reference

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True)
class RowFault:
    """Why one column of a row cannot be used."""

    field: str
    message: str


@dataclass(frozen=True)
class Column:
    """A column that a program knows: one of its inputs, or a label that one of its outputs can be held against."""

    name: str
    role: str
    schema: JsonObject
    required: bool

    def fault(self, value: Any) -> str | None:
        """Say why a value of this column cannot be used, or return None. A label may be null: the row has none."""
        return None if value is None and self.role == "label" else value_fault(value, self.schema)


def input_columns(spec: ProgramSpec) -> dict[str, Column]:
    """Map each input of an expanded spec to its column, in the order of first use."""
    if spec.code is not None:
        return {each.name: Column(each.name, INPUT, each.json_schema, each.required) for each in spec.code.inputs}
    columns: dict[str, Column] = {}
    for step in spec.steps or []:
        predictor = spec.predictor(step.predictor)
        for name, reference in step.args.items():
            field = predictor.signature.field(name) if predictor else None
            _add_inputs(columns, reference, field)
    for reference in (spec.outputs or {}).values():
        _add_inputs(columns, reference, None)
    return columns


def _add_inputs(columns: dict[str, Column], reference: Reference, field: FieldSpec | None) -> None:
    """The first field that takes an input whole gives its type; an input is optional if it feeds only fields with defaults."""
    whole = isinstance(reference, FromRef) and len(reference.parts) == 2 and field is not None
    for each in references(reference):
        if each.parts[0] != INPUT:
            continue
        known = columns.get(each.parts[1], Column(each.parts[1], INPUT, {}, required=False))
        schema = field.json_schema if whole and field and not known.schema else known.schema
        optional = whole and field is not None and field.has_default
        columns[known.name] = Column(known.name, INPUT, schema, required=known.required or not optional)


def label_columns(spec: ProgramSpec) -> dict[str, Column]:
    """Map each output of an expanded spec to its column; the type is that of the field it comes from."""
    if spec.code is not None:
        return _likely_labels(spec)
    outputs = spec.outputs or {}
    return {name: Column(name, "label", _output_schema(spec, reference), required=False) for name, reference in outputs.items()}


def _likely_labels(spec: ProgramSpec) -> dict[str, Column]:
    """What code returns is not known: it likely goes by the name of a predictor's output, and where those agree, by its type."""
    schemas: dict[str, list[JsonObject]] = {}
    for predictor in spec.predictors:
        for field in predictor.signature.of_role("output"):
            schemas.setdefault(field.name, []).append(field.json_schema)
    agreed = {name: found[0] if all(each == found[0] for each in found) else {} for name, found in schemas.items()}
    return {name: Column(name, "label", schema, required=False) for name, schema in agreed.items()}


def _output_schema(spec: ProgramSpec, reference: Reference) -> JsonObject:
    if not isinstance(reference, FromRef):
        return {}
    source, name, *rest = reference.parts
    step = spec.step(source)
    predictor = spec.predictor(step.predictor) if step else None
    field = predictor.signature.field(name) if predictor else None
    return schema_at(field, rest) or {} if field else {}


class RowCheck:
    """The check of the rows of one expanded spec."""

    def __init__(self, spec: ProgramSpec) -> None:
        inputs = input_columns(spec)
        known = {} if spec.code is not None else label_columns(spec)
        labels = [column for name, column in known.items() if name not in inputs]
        self.columns = [*inputs.values(), *labels]

    def faults(self, row: Any) -> list[RowFault]:
        """Say what is wrong with a row: missing inputs, and inputs and labels of the wrong type."""
        if not isinstance(row, Mapping):
            return [RowFault("", "expected an object")]
        return [fault for column in self.columns if (fault := _column_fault(column, row))]


def _column_fault(column: Column, row: Mapping[str, Any]) -> RowFault | None:
    if column.name not in row:
        return RowFault(column.name, "required input is missing") if column.required else None
    message = column.fault(row[column.name])
    return RowFault(column.name, message) if message else None


def cast_cell(text: str, schema: JsonObject) -> Any:
    """Read a cell of a CSV file by the type of its column: digits in a text column stay text.

    An empty cell of a type other than text is None. A cell that does not fit comes back as text, for a check to name.
    """
    if not schema or value_fault(text, schema) is None:
        return text
    plain = text.strip()
    if plain == "":
        return None
    for read in (_json_of, _number_of):
        value = read(plain)
        if value is not None and value_fault(value, schema) is None:
            return value
    return text


def _json_of(text: str) -> Any:
    """JSON, with `TRUE` and `False` as spreadsheets write them; None for what is none."""
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except (ValueError, RecursionError):
        return None


def _number_of(text: str) -> int | float | None:
    """Numbers that JSON writes otherwise: `007`, `+1`, `.5`."""
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else None


class RowReader:
    """Reads the rows of a table as one program takes them.

    `as_text`: cells are text, as in a CSV file, and are read by the types of the program's fields. A column that a table has and a row has
    nothing in is left out, unless its type has null.
    """

    def __init__(self, columns: Mapping[str, Column], *, as_text: bool) -> None:
        self._columns = columns
        self._as_text = as_text

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        read = {name: self._value(name, value) for name, value in row.items()}
        return {name: value for name, value in read.items() if value is not None or self._has_null(name)}

    def _value(self, name: str, value: Any) -> Any:
        known = self._columns.get(name)
        return cast_cell(value, known.schema) if self._as_text and known is not None else value

    def _has_null(self, name: str) -> bool:
        known = self._columns.get(name)
        return known is None or value_fault(None, known.schema) is None
