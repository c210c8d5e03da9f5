"""Typed values made up from a seed: the answers of a scripted run."""

import random
from collections.abc import Mapping
from typing import Any

import pydantic

from stillhouse_programs.types import type_name

_DAY = "2026-01-{day:02d}"


def fake_value(annotation: Any, rnd: random.Random) -> Any:
    """Make up a value of a type. Equal types and seeds give equal values, in every process."""
    reader = pydantic.TypeAdapter(annotation)
    try:
        schema = reader.json_schema()
    except pydantic.PydanticUserError:
        return f"{type_name(annotation)}-{rnd.randint(0, 99)}"
    raw = _Faker(schema.get("$defs", {}), rnd).make(schema)
    try:
        return reader.validate_python(raw)
    except pydantic.ValidationError:
        return raw  # a pattern, for instance, that made-up text does not meet


class _Faker:
    def __init__(self, defs: Mapping[str, Any], rnd: random.Random) -> None:
        self.defs = defs
        self.rnd = rnd

    def make(self, schema: Mapping[str, Any], depth: int = 0) -> Any:
        if "$ref" in schema:
            return self.make(self.defs[schema["$ref"].rsplit("/", 1)[-1]], depth + 1) if depth < 12 else None
        if "const" in schema or "enum" in schema:
            return self.rnd.choice(schema.get("enum", [schema.get("const")]))
        if "anyOf" in schema:
            return self.make(self.rnd.choice(schema["anyOf"]), depth)
        return self._plain(schema, depth)

    def _plain(self, schema: Mapping[str, Any], depth: int) -> Any:
        kind = schema.get("type")
        if kind == "array":
            return self._array(schema, depth)
        if kind == "object":
            return self._object(schema, depth)
        if kind in ("integer", "number"):
            return self._number(schema, kind == "integer")
        if kind == "boolean":
            return self.rnd.random() < 0.5
        return None if kind == "null" else self._text(schema)

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        if "prefixItems" in schema:
            return [self.make(part, depth) for part in schema["prefixItems"]]
        # One member: the order of a set's members differs between processes.
        many = 1 if schema.get("uniqueItems") else self.rnd.randint(0, 2)
        least, most = schema.get("minItems", 0), schema.get("maxItems", 99)
        return [self.make(schema.get("items", {}), depth) for _ in range(min(max(many, least), most))]

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        if "properties" in schema:
            return {name: self.make(part, depth) for name, part in schema["properties"].items()}
        rest = schema.get("additionalProperties", {})
        return {f"key{self.rnd.randint(0, 9)}": self.make(rest if isinstance(rest, Mapping) else {}, depth)}

    def _number(self, schema: Mapping[str, Any], whole: bool) -> int | float:
        step = 1 if whole else 0.25
        low = schema.get("minimum", schema.get("exclusiveMinimum", -step) + step)
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 99) - step)
        unit = schema.get("multipleOf", step)
        first, last = -(-low // unit), high // unit
        value = self.rnd.randint(int(first), max(int(first), int(last))) * unit
        return int(value) if whole else float(value)

    def _text(self, schema: Mapping[str, Any]) -> str:
        day = self.rnd.randint(1, 28)
        dated = {"date": _DAY, "date-time": _DAY + "T10:00:00", "time": "10:{day:02d}:00"}
        if schema.get("format") in dated:
            return dated[schema["format"]].format(day=day)
        text = f"word{self.rnd.randint(0, 99)}"
        return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength", len(text) + schema.get("minLength", 0))]
