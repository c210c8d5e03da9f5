"""What a dataset's fields hold, and whether they and its rows suit a program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distill.catalog.models import Dataset
from distill.errors import Detail, Invalid
from distill.spec import did_you_mean
from stillhouse_programs.spec import ProgramSpec, check_row, expand, required_input_names

MAX_DETAILS = 20
_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object", type(None): "null"}


@dataclass
class _Field:
    present: int = 0
    last_row: int = 0
    first_missing: int | None = None
    types: dict[str, int] = field(default_factory=dict)

    def add(self, row: int, value: Any) -> None:
        if self.first_missing is None and row != self.last_row + 1:
            self.first_missing = self.last_row + 1
        self.last_row = row
        self.present += 1
        kind = _JSON_TYPES.get(type(value), "object")
        self.types[kind] = self.types.get(kind, 0) + 1


class FieldSummary:
    """Per field: in how many rows it stands, with which JSON types, and the first row (1-based) that lacks it."""

    def __init__(self) -> None:
        self.rows = 0
        self._fields: dict[str, _Field] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        for name, value in row.items():
            self._fields.setdefault(name, _Field()).add(self.rows, value)

    def as_json(self) -> list[dict[str, Any]]:
        return [self._one(name, entry) for name, entry in self._fields.items()]

    def _one(self, name: str, entry: _Field) -> dict[str, Any]:
        missing = entry.first_missing
        if missing is None and entry.last_row < self.rows:
            missing = entry.last_row + 1
        return {"name": name, "present": entry.present, "types": entry.types, "first_missing": missing}


def check_rows(spec: ProgramSpec, rows: Iterable[Mapping[str, Any]], param: str = "trainset") -> None:
    """Check rows one by one against a program. Raises Invalid with a detail for each fault, at most 20; `param` names the first."""
    expanded = expand(spec)
    details: list[Detail] = []
    bad, total = 0, 0
    for total, row in enumerate(rows, start=1):
        faults = check_row(expanded, row)
        bad += bool(faults)
        details.extend(Detail(fault.message, total, fault.field or None) for fault in faults[: MAX_DETAILS - len(details)])
    if bad:
        raise _bad_rows(param, bad, total, details)


def _bad_rows(param: str, bad: int, total: int, details: list[Detail]) -> Invalid:
    first = details[0]
    place = f"{param}[{(first.row or 1) - 1}]" + (f".{first.field}" if first.field else "")
    noun = "row" if total == 1 else "rows"
    message = f"{param}: {bad} of {total} {noun} cannot be used. Row {first.row}, `{first.field}`: {first.message}."
    return Invalid(message, code="invalid_rows", param=place, details=tuple(details))


def check_summary(spec: ProgramSpec, dataset: Dataset, param: str) -> None:
    """Check a stored dataset by its summary alone: it has rows, and every row has the inputs that the program requires."""
    if dataset.row_count == 0:
        raise Invalid(f"{param}: the dataset has no rows", code="empty_dataset", param=param)
    known = {entry["name"]: entry for entry in dataset.fields}
    details = [detail for name in required_input_names(spec) if (detail := _missing(name, known, dataset.row_count))]
    if details:
        first = details[0]
        message = f"{param}: {first.message}"
        raise Invalid(message, code="invalid_rows", param=f"{param}[{(first.row or 1) - 1}].{first.field}", details=tuple(details))


def _missing(name: str, known: Mapping[str, Any], rows: int) -> Detail | None:
    entry = known.get(name)
    if entry is None:
        return Detail(f"no row has the input `{name}`{did_you_mean(name, known)}", 1, name)
    if entry["present"] < rows:
        return Detail(
            f"{rows - entry['present']} of {rows} rows lack the input `{name}`; the first is row {entry['first_missing']}",
            entry["first_missing"],
            name,
        )
    return None
