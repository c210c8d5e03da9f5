"""Which JSON schemas a spec may carry: those that a Python type stands for."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

MAX_DEPTH = 24
MAX_NESTING = 64
MAX_PARTS = 5_000
"""Of one type: what shows a type to an LM, and what reads the answer, takes time for each part and each choice, in every call."""
# Types of dspy that a program's inputs may have: an Image is a URL or a data URI, a History `{"messages": [{field: value}]}`.
DSPY_TYPES = ("Image", "History")
TYPE_NAMES = ("string", "integer", "number", "boolean", "null", "array", "object")
FORMATS = ("date", "date-time", "time")
PROPERTY_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]*$")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1_000_000


def _is_choice(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, bool))


def _is_schema(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(part, Mapping) for part in value.values())


def _list_of(is_member: Callable[[Any], bool], least: int = 0) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) >= least and all(is_member(member) for member in value)


def _one_of(*choices: Any) -> Callable[[Any], bool]:
    return lambda value: any(value is choice or (isinstance(value, str) and value == choice) for choice in choices)


def _anything(value: Any) -> bool:
    return True


# Every keyword in the order of canonical text: what it must hold, in code and in words.
_KEYWORDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "$defs": (_is_mapping, "an object of schemas"),
    "$ref": (_is_text, "text"),
    "title": (_is_text, "text"),
    "description": (_is_text, "text"),
    "type": (_one_of(*TYPE_NAMES), f"one of {', '.join(TYPE_NAMES)}"),
    "format": (_one_of(*FORMATS), f"one of {', '.join(FORMATS)}"),
    "enum": (_list_of(_is_choice, 1), "a list of texts, whole numbers, true, false or null that is not empty"),
    "x-enum-names": (_list_of(lambda name: _is_text(name) and bool(PROPERTY_NAME.match(name))), "a list of plain names"),
    "const": (_is_choice, "text, a whole number, true, false or null"),
    "anyOf": (_list_of(_is_schema, 1), "a list of schemas that is not empty"),
    "items": (_is_schema, "a schema"),
    "prefixItems": (_list_of(_is_schema, 1), "a list of schemas that is not empty"),
    "uniqueItems": (_one_of(True), "true"),
    "minItems": (_is_count, "a count"),
    "maxItems": (_is_count, "a count"),
    "properties": (_is_mapping, "an object of schemas"),
    "required": (_list_of(_is_text), "a list of names"),
    "additionalProperties": (lambda value: isinstance(value, (bool, Mapping)), "true, false or a schema"),
    "minimum": (_is_number, "a number"),
    "maximum": (_is_number, "a number"),
    "exclusiveMinimum": (_is_number, "a number"),
    "exclusiveMaximum": (_is_number, "a number"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "minLength": (_is_count, "a count"),
    "maxLength": (_is_count, "a count"),
    "pattern": (_is_text, "text"),
    "default": (_anything, "a value"),
    "examples": (_list_of(_anything), "a list"),
    "x-py": (_one_of("list", "dict", "str", "int"), "list, dict, str or int"),
    "x-dspy-type": (_anything, "a name"),
}

_NUMBER_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_TEXT_BOUNDS = frozenset({"minLength", "maxLength", "pattern"})
_LIST_BOUNDS = frozenset({"minItems", "maxItems"})
_BOUNDS_OF = {"integer": _NUMBER_BOUNDS, "number": _NUMBER_BOUNDS, "string": _TEXT_BOUNDS, "array": _LIST_BOUNDS}
BOUNDS = _NUMBER_BOUNDS | _TEXT_BOUNDS | _LIST_BOUNDS
# Which type a mark stands at; `str` and `int` mark enums that are texts or numbers themselves.
_MARKED = {"list": "array", "dict": "object", "str": "string", "int": "integer"}


class SchemaFault(ValueError):
    """A JSON schema that a spec cannot carry. `path` leads to the place inside the schema, as `.items.type`."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


def check_schema(schema: Any) -> int:
    """Check that a spec can carry `schema`; returns how many parts and choices it has. Raises SchemaFault."""
    if not isinstance(schema, Mapping):
        raise SchemaFault("expected a JSON schema object")
    _check_keywords(schema, "")
    walk = _SchemaWalk(schema.get("$defs", {}))
    walk.visit(schema, "", (), 0)
    for name in walk.defs:
        walk.visit_definition(name, (), 0)
    return walk.parts


class _SchemaWalk:
    """Visits every part of a schema once, so that shared definitions cost no more than they are long."""

    def __init__(self, defs: Schema) -> None:
        self.defs = defs
        self.heights: dict[str, int] = {}
        """Of definitions that were visited: how many levels of types they have."""
        self.parts = 0

    def visit(self, schema: Schema, path: str, inside: tuple[str, ...], level: int) -> int:
        """Returns how many levels it has. `inside`: names of the definitions that lead here; meeting one of them again is a type that
        contains itself. `level`: how many levels lead here."""
        if path.count(".") > MAX_DEPTH or level > MAX_NESTING:
            raise SchemaFault("the type is nested too deeply", path)
        _check_keywords(schema, path)
        _check_meaning(schema, path)
        self._count(schema, path)
        heights = [self._follow(schema, path, inside, level + 1)] if "$ref" in schema else []
        heights += [self.visit(part, place, inside, level + 1) for place, part in _parts(schema, path)]
        return 1 + max(heights, default=0)

    def visit_definition(self, name: str, inside: tuple[str, ...], level: int) -> int:
        path = f".$defs.{name}"
        if name not in self.heights:
            self.heights[name] = self.visit(self.defs[name], path, (*inside, name), level)
        if level + self.heights[name] > MAX_NESTING:
            raise SchemaFault("the type is nested too deeply", path)
        return self.heights[name]

    def _count(self, schema: Schema, path: str) -> None:
        self.parts += 1 + len(schema.get("enum", ()))
        if self.parts > MAX_PARTS:
            raise SchemaFault(f"a type has at most {MAX_PARTS:,} parts and choices; take text, and check it in the metric", path)

    def _follow(self, schema: Schema, path: str, inside: tuple[str, ...], level: int) -> int:
        name = schema["$ref"].rsplit("/", 1)[-1]
        if name not in self.defs:
            raise SchemaFault(f"`{schema['$ref']}` is not defined in `$defs`", f"{path}.$ref")
        if name in inside:
            raise SchemaFault(f"the type {name} contains itself, which a spec cannot carry", path)
        return self.visit_definition(name, inside, level)


def _check_keywords(schema: Schema, path: str) -> None:
    for key, value in schema.items():
        if key not in _KEYWORDS or (key == "$defs" and path):
            raise SchemaFault(f"a spec cannot carry the schema keyword `{key}` here", path)
        holds, words = _KEYWORDS[key]
        if not holds(value):
            raise SchemaFault(f"`{key}` must be {words}", f"{path}.{key}")


def _check_meaning(schema: Schema, path: str) -> None:
    if "x-dspy-type" in schema:
        _check_dspy_type(schema, path)
    if len(schema.get("x-enum-names", schema.get("enum", []))) != len(schema.get("enum", [])):
        raise SchemaFault("`x-enum-names` must hold one name for each value of `enum`", f"{path}.x-enum-names")
    if "x-py" in schema and (schema.get("type") != _MARKED[schema["x-py"]] or (schema["x-py"] in ("str", "int")) != ("enum" in schema)):
        raise SchemaFault("`x-py` does not fit the type it stands at", f"{path}.x-py")
    if "format" in schema and schema.get("type") != "string":
        raise SchemaFault("`format` stands at texts only", f"{path}.format")
    _check_properties(schema, path)
    _check_bounds(schema, path)


def _check_dspy_type(schema: Schema, path: str) -> None:
    name = schema["x-dspy-type"]
    if name not in DSPY_TYPES:
        raise SchemaFault(f"the type dspy.{name} cannot travel as a spec (these can: {', '.join(DSPY_TYPES)})", path)
    if len(schema) > 1:
        raise SchemaFault("`x-dspy-type` stands alone: the type is known by its name", path)
    if name == "History" and path:
        raise SchemaFault("a History is the type of a whole field, not a part of one", path)


def dspy_types(schema: Any) -> set[str]:
    """The names of dspy's own types anywhere inside a schema."""
    if isinstance(schema, list):
        return {name for part in schema for name in dspy_types(part)}
    if not isinstance(schema, Mapping):
        return set()
    own = {str(schema["x-dspy-type"])} if "x-dspy-type" in schema else set()
    return own.union(*(dspy_types(part) for key, part in schema.items() if key not in ("default", "examples", "enum", "const")))


def _check_properties(schema: Schema, path: str) -> None:
    properties = schema.get("properties", {})
    for name in properties:
        if not PROPERTY_NAME.match(name):
            raise SchemaFault(f"property `{name}`: a name is letters, digits and underscores after a letter", f"{path}.properties")
    unknown = [name for name in schema.get("required", []) if name not in properties]
    if unknown:
        raise SchemaFault(f"required property `{unknown[0]}` is not in `properties`", f"{path}.required")
    if "properties" in schema and (schema.get("type") != "object" or isinstance(schema.get("additionalProperties"), Mapping)):
        raise SchemaFault("`properties` stands at an object whose `additionalProperties` is true or false", f"{path}.properties")


def _check_bounds(schema: Schema, path: str) -> None:
    """Python types carry bounds as properties of an object only; a tuple has its length by nature."""
    found = [] if "prefixItems" in schema else [key for key in schema if key in BOUNDS]
    if not found:
        return
    in_object = re.search(r"\.properties\.\w+(\.anyOf\[\d+\])?$", path)
    if not in_object:
        raise SchemaFault(f"`{found[0]}` can stand at a property of an object only; say it in `desc` or `constraints`", path)
    unfit = [key for key in found if key not in _BOUNDS_OF.get(schema.get("type", ""), ())]
    if unfit:
        raise SchemaFault(f"`{unfit[0]}` does not go with the type {schema.get('type')}", f"{path}.{unfit[0]}")


def _parts(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    for key in ("anyOf", "prefixItems"):
        for number, part in enumerate(schema.get(key, [])):
            yield f"{path}.{key}[{number}]", part
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            yield f"{path}.{key}", schema[key]
    for name, part in schema.get("properties", {}).items():
        yield f"{path}.properties.{name}", part


def ordered(schema: Schema) -> dict[str, Any]:
    """Return a checked schema with its keywords in our order, so that equal types are equal text.

    The order of properties and choices is part of a prompt and stays; that of keywords is not, since dspy words the type anew.
    """
    plain = {key: schema[key] for key in _KEYWORDS if key in schema}
    for key in ("$defs", "properties"):
        if key in plain:
            plain[key] = {name: ordered(part) for name, part in plain[key].items()}
    for key in ("anyOf", "prefixItems"):
        if key in plain:
            plain[key] = [ordered(part) for part in plain[key]]
    for key in ("items", "additionalProperties"):
        if isinstance(plain.get(key), Mapping):
            plain[key] = ordered(plain[key])
    return plain
