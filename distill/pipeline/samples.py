"""Made-up inputs of a program, the same for ever: its prompts on them are what a prompt hash stands for.

They are made from the program alone. Rows of a trainset would change the hash, and with it every trace's digest, whenever rows are added.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse_programs.spec import ProgramSpec, check_row, columns

_DEEPEST = 8
_IMAGE = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAACAkQBADs="
_DATED = {"date": "2026-01-02", "date-time": "2026-01-02T03:04:05", "time": "03:04:05"}


def fixed_samples(spec: ProgramSpec, rows: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """Inputs that the program takes; where a type can't be made up, the inputs of the first rows instead."""
    inputs = [column for column in columns(spec).values() if column.role == "input"]
    made = [{column.name: _value(column.name, column.schema, turn) for column in inputs} for turn in range(2)]
    if not any(check_row(spec, sample) for sample in made):
        return made
    names = {column.name for column in inputs}
    return [{name: value for name, value in row.items() if name in names} for row in rows[:2]]


def _value(name: str, schema: Mapping[str, Any], turn: int, root: Mapping[str, Any] | None = None, depth: int = 0) -> Any:
    root = root or schema
    if depth > _DEEPEST:
        return None
    if "x-dspy-type" in schema:
        return {"url": _IMAGE} if schema["x-dspy-type"] == "Image" else {"messages": []}
    if "$ref" in schema:
        return _value(name, _resolve(schema["$ref"], root), turn, root, depth + 1)
    if "const" in schema or "enum" in schema:
        choices = schema.get("enum", [schema.get("const")])
        return choices[turn % len(choices)]
    if "anyOf" in schema:
        return _value(name, schema["anyOf"][0], turn, root, depth + 1)
    return _plain(name, schema, turn, root, depth)


def _plain(name: str, schema: Mapping[str, Any], turn: int, root: Mapping[str, Any], depth: int) -> Any:
    kind = schema.get("type")
    if kind == "object":
        members = schema.get("properties", {})
        return {key: _value(key, part, turn, root, depth + 1) for key, part in members.items()}
    if kind == "array":
        parts = schema.get("prefixItems") or [schema.get("items", {})] * max(1, schema.get("minItems", 1))
        return [_value(f"{name}{i}", part, turn, root, depth + 1) for i, part in enumerate(parts)]
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + ("exclusiveMinimum" in schema))
        return low + turn if "maximum" not in schema else low
    if kind in ("boolean", "null"):
        return turn == 0 if kind == "boolean" else None
    text = _DATED.get(schema.get("format", ""), f"A sample of {name}, number {turn + 1}.\nIts second line.")
    return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength", len(text) + schema.get("minLength", 0))]


def _resolve(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        found = found.get(part, {}) if isinstance(found, Mapping) else {}
    return found if isinstance(found, Mapping) else {}
