"""JSON schemas for constrained answers: what a type looks like as an answer, in words that all grammar engines know."""

import json
from collections.abc import Mapping
from typing import Any

import pydantic
from typing_extensions import TypedDict

from stillhouse_programs.regexes import FORMATS

_DROPPED = frozenset({"title", "description", "default", "examples", "uniqueItems", "x-py", "x-enum-names"})


def answer_schema(fields: Mapping[str, Any], most_text: int, most_field_text: int) -> dict[str, Any]:
    """Return the schema of a JSON answer with these fields: an object with all of them, in order, and nothing else."""
    make: Any = TypedDict  # the fields are known at run time only
    schema = _Tightened(most_text).of(pydantic.TypeAdapter(make("Answer", dict(fields))).json_schema())
    for part in schema["properties"].values():
        if part.get("maxLength") == most_text:
            part["maxLength"] = most_field_text
    return schema


def value_schema(annotation: Any, most_text: int) -> dict[str, Any]:
    """Return the schema of one value as an answer."""
    return _Tightened(most_text).of(pydantic.TypeAdapter(annotation).json_schema())


class _Tightened:
    """Rewrites a schema of pydantic: every property required, nothing beside them, text of bounded length, dates as patterns."""

    def __init__(self, most_text: int) -> None:
        self.most_text = most_text

    def of(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        plain = json.loads(json.dumps({key: value for key, value in schema.items() if key not in _DROPPED}))
        for key in ("$defs", "properties"):
            if key in plain:
                plain[key] = {name: self.of(part) for name, part in schema[key].items()}
        for key in ("anyOf", "prefixItems"):
            if key in plain:
                plain[key] = [self.of(part) for part in schema[key]]
        for key in ("items", "additionalProperties"):
            if isinstance(plain.get(key), Mapping):
                plain[key] = self.of(schema[key])
        return self._closed(plain)

    def _closed(self, plain: dict[str, Any]) -> dict[str, Any]:
        if "const" in plain:
            plain["enum"] = [plain.pop("const")]
        if "properties" in plain:
            plain |= {"required": list(plain["properties"]), "additionalProperties": False}
        if "prefixItems" in plain:
            plain["items"] = False
        if plain.get("type") == "string" and "enum" not in plain:
            plain |= self._text(plain)
        return plain

    def _text(self, plain: dict[str, Any]) -> dict[str, Any]:
        if "format" in plain:
            return {"pattern": f"^{FORMATS[plain.pop('format')]}$"}
        return {} if "pattern" in plain or "maxLength" in plain else {"maxLength": self.most_text}
