"""Labels: what a call answered in fields that have only so many values (Literal, Enum, bool). They are counted, and both sides get some."""

import json
from collections.abc import Mapping
from typing import Any

from stillhouse_programs.spec import ProgramSpec, expand

Choices = Mapping[str, tuple[str, ...]]


def choices(student: ProgramSpec) -> dict[str, tuple[str, ...]]:
    """Each predictor's output fields with a closed set of values, in their order."""
    found = {}
    for predictor in expand(student).predictors:
        names = (field.name for field in predictor.signature.of_role("output") if _is_closed(field.json_schema))
        found[predictor.name] = tuple(names)
    return found


def _is_closed(schema: Mapping[str, Any]) -> bool:
    """`$ref` of an Enum class and `anyOf` with null (an optional Literal) included."""
    if "$ref" in schema:
        defined = schema.get("$defs", {}).get(str(schema["$ref"]).rpartition("/")[2])
        return isinstance(defined, Mapping) and "enum" in defined
    if "anyOf" in schema:
        return all(part.get("type") == "null" or _is_closed(part) for part in schema["anyOf"])
    return "enum" in schema or "const" in schema or schema.get("type") == "boolean"


def labels_of_call(fields: tuple[str, ...], outputs: Mapping[str, Any] | None) -> dict[str, str]:
    """`{field: value as text}` of one call; what is no text stands as JSON."""
    return {name: _text(outputs[name]) for name in fields if outputs is not None and name in outputs}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
