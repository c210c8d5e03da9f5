"""A light check of JSON values against the JSON schemas that a spec may carry, and of those schemas themselves."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

MAX_DEPTH = 24
PROPERTY_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]*$")
# fmt: off
SCHEMA_KEYS = (
    "$defs", "$ref", "title", "description", "type", "format", "enum", "x-enum-names", "const", "anyOf",
    "items", "prefixItems", "uniqueItems", "minItems", "maxItems", "properties", "required", "additionalProperties",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern",
    "default", "examples", "x-py", "x-dspy-type",
)
# fmt: on
TYPE_NAMES = ("string", "integer", "number", "boolean", "null", "array", "object")
TYPE_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}


FORMATS = ("date", "date-time", "time")
MARKS = ("list", "dict", "str", "int")
BOUNDS = frozenset({
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "minItems", "maxItems", "pattern",
})  # fmt: skip


class SchemaFault(ValueError):
    """A JSON schema that a spec cannot carry. `path` leads to the place inside the schema, as `.items.type`."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


# ------------------------------------------------------------------ values


def value_fault(value: Any, schema: Schema, defs: Schema | None = None, depth: int = 0) -> str | None:
    """Say why `value` does not fit `schema`, or return None. Bounds and patterns are left to the program's own parser."""
    defs = schema.get("$defs", {}) if defs is None else defs
    if depth > MAX_DEPTH:
        return "nested too deeply"
    if "$ref" in schema:
        return value_fault(value, defs.get(_ref_name(schema), {}), defs, depth + 1)
    if "enum" in schema or "const" in schema:
        return _choice_fault(value, schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return _union_fault(value, schema["anyOf"], defs, depth)
    return _typed_fault(value, schema, defs, depth)


def _choice_fault(value: Any, choices: list[Any]) -> str | None:
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return None
    return "expected one of " + ", ".join(str(choice) for choice in choices)


def _union_fault(value: Any, options: list[Schema], defs: Schema, depth: int) -> str | None:
    faults = [value_fault(value, option, defs, depth + 1) for option in options]
    if None in faults:
        return None
    words = [fault.removeprefix("expected ") for fault in faults if fault]
    return "expected " + " or ".join(dict.fromkeys(words))


def _typed_fault(value: Any, schema: Schema, defs: Schema, depth: int) -> str | None:
    kind = schema.get("type")
    if kind is None:
        return None
    if not _TYPE_TESTS[kind](value):
        return f"expected {TYPE_WORDS[kind]}"
    if kind == "array":
        return _items_fault(value, schema, defs, depth)
    if kind == "object":
        return _object_fault(value, schema, defs, depth)
    return None


def _items_fault(value: list[Any], schema: Schema, defs: Schema, depth: int) -> str | None:
    fixed = schema.get("prefixItems")
    if fixed is not None and len(value) != len(fixed):
        return f"expected {len(fixed)} items"
    for number, item in enumerate(value):
        fault = value_fault(item, fixed[number] if fixed is not None else schema.get("items", {}), defs, depth + 1)
        if fault:
            return f"item {number + 1}: {fault}"
    return None


def _object_fault(value: dict[str, Any], schema: Schema, defs: Schema, depth: int) -> str | None:
    missing = [key for key in schema.get("required", []) if key not in value]
    if missing:
        return f"`{missing[0]}` is missing"
    properties = schema.get("properties", {})
    rest = schema.get("additionalProperties", {})
    for key, item in value.items():
        if key not in properties and rest is False:
            return f"unknown key `{key}`"
        inner = properties.get(key, rest if isinstance(rest, Mapping) else {})
        fault = value_fault(item, inner, defs, depth + 1)
        if fault:
            return f"`{key}`: {fault}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and (isinstance(value, int) or value.is_integer())


_TYPE_TESTS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": _is_whole,
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


# ------------------------------------------------------------------ schemas


def check_schema(schema: Any) -> None:
    """Check that a spec can carry `schema`. Raises SchemaFault."""
    defs = schema.get("$defs", {}) if isinstance(schema, Mapping) else {}
    if not isinstance(defs, Mapping):
        raise SchemaFault("`$defs` must be an object", ".$defs")
    _SchemaWalk(defs).visit(schema, "", ())


class _SchemaWalk:
    """Visits every part of a schema once, so that shared definitions cost no more than they are long."""

    def __init__(self, defs: Schema) -> None:
        self.defs = defs
        self.done: set[str] = set()

    def visit(self, schema: Any, path: str, inside: tuple[str, ...]) -> None:
        """`inside`: names of the definitions that lead here; meeting one of them again is a type that contains itself."""
        if not isinstance(schema, Mapping):
            raise SchemaFault("expected a JSON schema object", path)
        if path.count(".") > MAX_DEPTH:
            raise SchemaFault("the type is nested too deeply", path)
        unknown = [key for key in schema if key not in SCHEMA_KEYS or (key == "$defs" and path)]
        if unknown:
            raise SchemaFault(f"a spec cannot carry the schema keyword `{unknown[0]}` here", path)
        _check_keywords(schema, path)
        _check_bounds(schema, path)
        if "$ref" in schema:
            self._follow(schema, path, inside)
        for place, part in _parts(schema, path):
            self.visit(part, place, inside)

    def _follow(self, schema: Schema, path: str, inside: tuple[str, ...]) -> None:
        name = _ref_name(schema)
        if name not in self.defs:
            raise SchemaFault(f"`{schema['$ref']}` is not defined in `$defs`", f"{path}.$ref")
        if name in inside:
            raise SchemaFault(f"the type {name} contains itself, which a spec cannot carry", path)
        if name not in self.done:
            self.visit(self.defs[name], f".$defs.{name}", (*inside, name))
            self.done.add(name)


def _check_keywords(schema: Schema, path: str) -> None:
    if "x-dspy-type" in schema:
        raise SchemaFault(f"the type dspy.{schema['x-dspy-type']} cannot travel as a spec", path)
    if "type" in schema and schema["type"] not in TYPE_NAMES:
        raise SchemaFault(f"unknown type {schema['type']!r}; one of {', '.join(TYPE_NAMES)}", f"{path}.type")
    if schema.get("format", "date") not in FORMATS:
        raise SchemaFault(f"a spec cannot carry the format {schema['format']!r}", f"{path}.format")
    if schema.get("x-py", "list") not in MARKS:
        raise SchemaFault(f"`x-py` is one of {', '.join(MARKS)}", f"{path}.x-py")
    if "enum" in schema and not _list_of(schema, "enum", path):
        raise SchemaFault("`enum` must not be empty", f"{path}.enum")
    if "x-enum-names" in schema:
        _check_enum_names(schema, path)
    for value in _list_of(schema, "enum", path):
        if not isinstance(value, (str, int, float, bool, type(None))):
            raise SchemaFault("choices must be text, numbers, true, false or null", f"{path}.enum")


def _check_bounds(schema: Schema, path: str) -> None:
    """Python types carry bounds as properties of an object only; a tuple has its length by nature."""
    in_object = path.split(".")[-2:-1] == ["properties"]
    found = [] if in_object or "prefixItems" in schema else [key for key in schema if key in BOUNDS]
    if found:
        raise SchemaFault(f"`{found[0]}` can stand at a property of an object only; say it in `desc` or `constraints`", path)


def _check_enum_names(schema: Schema, path: str) -> None:
    names = _list_of(schema, "x-enum-names", path)
    if len(names) != len(schema.get("enum", [])) or not all(isinstance(name, str) and PROPERTY_NAME.match(name) for name in names):
        raise SchemaFault("`x-enum-names` must hold one plain name for each value of `enum`", f"{path}.x-enum-names")


def _parts(schema: Schema, path: str) -> Iterator[tuple[str, Any]]:
    for key in ("anyOf", "prefixItems"):
        for number, part in enumerate(_list_of(schema, key, path)):
            yield f"{path}.{key}[{number}]", part
    for key in ("items", "additionalProperties"):
        if not isinstance(schema.get(key, True), bool):
            yield f"{path}.{key}", schema[key]
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        raise SchemaFault("`properties` must be an object", f"{path}.properties")
    _check_property_names(schema, properties, path)
    for name, part in properties.items():
        yield f"{path}.properties.{name}", part


def _check_property_names(schema: Schema, properties: Schema, path: str) -> None:
    for name in properties:
        if not PROPERTY_NAME.match(name):
            raise SchemaFault(f"property `{name}`: a name is letters, digits and underscores after a letter", f"{path}.properties")
    unknown = [name for name in _list_of(schema, "required", path) if name not in properties]
    if unknown:
        raise SchemaFault(f"required property `{unknown[0]}` is not in `properties`", f"{path}.required")


def _list_of(schema: Schema, key: str, path: str) -> list[Any]:
    part = schema.get(key, [])
    if not isinstance(part, list):
        raise SchemaFault(f"`{key}` must be a list", f"{path}.{key}")
    return part


def _ref_name(schema: Schema) -> str:
    return str(schema["$ref"]).rsplit("/", 1)[-1]


def ordered(schema: Schema) -> dict[str, Any]:
    """Return a checked schema with its keywords in our order, so that equal types are equal text.

    The order of properties and choices is part of a prompt and stays; that of keywords is not, since dspy words the type anew.
    """
    plain = {key: schema[key] for key in SCHEMA_KEYS if key in schema}
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
