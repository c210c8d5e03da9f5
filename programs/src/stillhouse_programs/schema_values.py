"""A light check of JSON values against the JSON schemas that a spec may carry, with messages for people."""

from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from typing import Any

Schema = Mapping[str, Any]

_MOST_DEPTH = 24
_MOST_INTEGER = 2**64
_IMAGES = ("http://", "https://", "gs://", "data:image/")
_FORMATS: dict[str, tuple[Callable[[str], Any], str]] = {
    "date": (date.fromisoformat, "2026-01-02"),
    "date-time": (datetime.fromisoformat, "2026-01-02T03:04:05"),
    "time": (time.fromisoformat, "03:04:05"),
}
_TYPE_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}


def value_fault(value: Any, schema: Schema, defs: Schema | None = None, depth: int = 0) -> str | None:
    """Say why `value` does not fit `schema`, or return None. Bounds and patterns are left to the program's own parser."""
    defs = schema.get("$defs", {}) if defs is None else defs
    if depth > _MOST_DEPTH:
        return "nested too deeply"
    if "$ref" in schema:
        return value_fault(value, defs.get(str(schema["$ref"]).rsplit("/", 1)[-1], {}), defs, depth + 1)
    if "x-dspy-type" in schema:
        return _dspy_fault(value, schema["x-dspy-type"])
    if "enum" in schema or "const" in schema:
        return _choice_fault(value, schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return _union_fault(value, schema["anyOf"], defs, depth)
    return _typed_fault(value, schema, defs, depth)


def _dspy_fault(value: Any, name: str) -> str | None:
    if name == "Image":
        given = value.get("url") if isinstance(value, Mapping) and list(value) == ["url"] else value
        fits = isinstance(given, str) and given.startswith(_IMAGES)
        return None if fits else 'expected an image: an http(s) or gs address, a data URI, or {"url": …} of one'
    messages = value.get("messages") if isinstance(value, Mapping) and list(value) == ["messages"] else None
    fits = isinstance(messages, list) and all(isinstance(message, Mapping) for message in messages)
    return None if fits else 'expected a conversation: {"messages": [{field: value, …}, …]}'


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
        return f"expected {_TYPE_WORDS[kind]}"
    if "format" in schema:
        return _dated_fault(value, schema["format"])
    if kind == "array":
        return _items_fault(value, schema, defs, depth)
    if kind == "object":
        return _object_fault(value, schema, defs, depth)
    return None


def _dated_fault(value: str, form: str) -> str | None:
    read, example = _FORMATS[form]
    try:
        read(value)
    except ValueError:
        return f"expected a {form} such as {example}"
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
    """Of at most 64 bits: no runner could be sent more."""
    return _is_number(value) and float(value).is_integer() and -_MOST_INTEGER // 2 <= value < _MOST_INTEGER


_TYPE_TESTS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": _is_whole,
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
