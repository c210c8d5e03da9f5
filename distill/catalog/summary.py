"""The summary of a dataset's fields, made once while its rows are written: what a submit check and a reader need of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_VALUES = 20
LONGEST_VALUE = 200
"""Longer texts are not repeated in a summary."""

_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object", type(None): "null"}
_CELLS = (
    ("empty", re.compile(r"\s*")),
    ("integer", re.compile(r"\s*[+-]?\d+\s*")),
    ("number", re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")),
    ("boolean", re.compile(r"\s*(true|false)\s*", re.IGNORECASE)),
    ("array", re.compile(r"\s*\[.*\]\s*", re.DOTALL)),
    ("object", re.compile(r"\s*\{.*\}\s*", re.DOTALL)),
)


def json_type(value: Any) -> str:
    """The JSON type of a value."""
    return _JSON_TYPES.get(type(value), "object")


def cell_kind(text: str) -> str:
    """What the text of a CSV cell looks like; a program's field decides what it is read as."""
    return next((kind for kind, pattern in _CELLS if pattern.fullmatch(text)), "text")


@dataclass
class _Seen:
    """How often something was met, and first in which row."""

    row: int
    count: int = 0


@dataclass
class _Field:
    present: int = 0
    last_row: int = 0
    first_missing: int | None = None
    types: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, tuple[_Seen, Any]] = field(default_factory=dict)
    values: dict[Any, _Seen] | None = field(default_factory=dict)

    def add(self, row: int, value: Any, kind: str, json_kind: str) -> None:
        if self.first_missing is None and row != self.last_row + 1:
            self.first_missing = self.last_row + 1
        self.last_row = row
        self.present += 1
        self.types[json_kind] = self.types.get(json_kind, 0) + 1
        known = self.kinds.get(kind)
        if known is None:
            known = self.kinds[kind] = (_Seen(row), value)
        known[0].count += 1
        self._add_value(row, value)

    def _add_value(self, row: int, value: Any) -> None:
        """Few and short values are kept, as those of a label are; of others only the first of each kind."""
        if self.values is None:
            return
        key = (type(value), value) if _is_short(value) else None
        if key is None or (key not in self.values and len(self.values) == MOST_VALUES):
            self.values = None
            return
        self.values.setdefault(key, _Seen(row)).count += 1

    def as_json(self, name: str, rows: int) -> dict[str, Any]:
        missing = self.first_missing
        if missing is None and self.last_row < rows:
            missing = self.last_row + 1
        values = (
            None if self.values is None else [{"value": key[1], "rows": seen.count, "row": seen.row} for key, seen in self.values.items()]
        )
        return {
            "name": name,
            "present": self.present,
            "types": self.types,
            "first_missing": missing,
            "kinds": [_kind(kind, seen, value) for kind, (seen, value) in self.kinds.items()],
            "values": values,
        }


def _is_short(value: Any) -> bool:
    return value is None or isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= LONGEST_VALUE)


def _kind(kind: str, seen: _Seen, value: Any) -> dict[str, Any]:
    told = {"value": value} if _is_short(value) or isinstance(value, float) else {}
    return {"kind": kind, "rows": seen.count, "row": seen.row, **told}


class FieldSummary:
    """Per field: in how many rows it stands, with which JSON types, and the first row (1-based) that lacks it.

    Also the first row and value of each kind (of CSV cells, what their text looks like), and the different values where there are few.
    """

    def __init__(self, *, as_text: bool = False) -> None:
        self.rows = 0
        self._as_text = as_text
        self._fields: dict[str, _Field] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        for name, value in row.items():
            kind = json_type(value)
            look = cell_kind(value) if self._as_text and isinstance(value, str) else kind
            self._fields.setdefault(name, _Field()).add(self.rows, value, look, kind)

    def as_json(self) -> list[dict[str, Any]]:
        return [entry.as_json(name, self.rows) for name, entry in self._fields.items()]
