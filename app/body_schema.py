"""What `strict_json` demands of every body, in the schemas of requests: no integer of more than 64 bits, wherever it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distill.strict_json import LARGEST, SMALLEST

_PREFIX = "#/components/schemas/"
ANY_JSON = "AnyJson"
_REF = {"$ref": _PREFIX + ANY_JSON}
#: A rule without a `type`: generators of clients make no class of it, and no union.
_SCHEMA = {
    "description": "Any JSON. An integer has at most 64 bits; send a larger one as text",
    "if": {"type": "integer"},
    "then": {"minimum": SMALLEST, "maximum": LARGEST},
    "items": _REF,
    "additionalProperties": _REF,
}
_SAYS_ITS_TYPE = frozenset({"type", "anyOf", "oneOf", "allOf", "$ref", "const", "enum"})
_LIMITS = (("minimum", "exclusiveMinimum", SMALLEST), ("maximum", "exclusiveMaximum", LARGEST))


def limit_integers(document: dict[str, Any]) -> None:
    """Write the limits into the bodies of a finished OpenAPI document, and into the components that they are made of."""
    components = document["components"]["schemas"]
    used = _used(document, components)
    for path in document["paths"].values():
        for operation in path.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                _limit(content.get("schema", {}))
    for name in used:
        _limit(components[name])
    components[ANY_JSON] = _SCHEMA


def _used(document: dict[str, Any], components: dict[str, Any]) -> set[str]:
    """Components that bodies lead to."""
    bodies = [operation.get("requestBody") for path in document["paths"].values() for operation in path.values()]
    found: set[str] = set()
    left = set(_references(bodies))
    while left:
        found |= left
        left = {name for each in left for name in _references(components[each])} - found
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].removeprefix(_PREFIX)
        yield from _references(list(schema.values()))
    elif isinstance(schema, list):
        for inner in schema:
            yield from _references(inner)


def _limit(schema: dict[str, Any]) -> None:
    """Limit the integers of one schema and of those inside it."""
    kind = schema.get("type")
    if kind == "integer":
        schema.update({name: limit for name, other, limit in _LIMITS if not schema.keys() & {name, other}})
    elif kind == "object" and schema.get("additionalProperties", True) is True:
        schema["additionalProperties"] = _REF
    elif kind == "array" and not schema.get("items"):
        schema["items"] = _REF
    elif not schema.keys() & _SAYS_ITS_TYPE:
        schema.update(_REF)
    inner = [schema.get("items"), schema.get("additionalProperties"), *schema.get("properties", {}).values()]
    for each in [*inner, *schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        if isinstance(each, dict):
            _limit(each)
