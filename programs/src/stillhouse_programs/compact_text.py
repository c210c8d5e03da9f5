"""Text of the compact prompt adapter: values, and the lines that they stand on."""

import enum
import json
import typing
from collections.abc import Mapping
from typing import Any

import pydantic
from dspy.adapters.utils import format_field_value, parse_value, serialize_for_json

from stillhouse_programs.types import is_union

# ------------------------------------------------------------------ lines

EMPTY = '""'


def join_lines(texts: Mapping[str, str]) -> str:
    """Write one `name: value` line for each text. Text of several lines begins on the line of its name."""
    return "\n".join(f"{name}: {text}" for name, text in texts.items())


def split_lines(text: str, fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the values of `name: value` lines. Lines before the first name are left out; the first line with a name counts."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.split("\n"):
        name = _field_of(line, fields)
        if name is None:
            lines.append(line)
        else:
            lines = [line[len(name) + 1 :]]
            found.setdefault(name, lines)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


def text_so_far(answer: str, name: str, fields: Mapping[str, Any], ended: bool) -> tuple[str, bool]:
    """Return what a field's text surely begins with in an answer that may go on, and whether that is all of it."""
    text, complete = answer.strip(), ended
    if len(fields) > 1:
        before, _, line = answer.rpartition("\n")
        undecided = not ended and any(f"{each}:".startswith(line) for each in fields)
        parts = split_lines(before if undecided else answer, fields)
        text, complete = parts.get(name, ""), name in parts and (ended or next(reversed(parts)) != name)
    if fields[name].annotation is not str or not text.startswith('"'):
        return text, complete
    return (read_value(text, str), True) if complete else ("", False)


def _field_of(line: str, fields: Mapping[str, Any]) -> str | None:
    name, colon, _ = line.partition(":")
    return name if colon and name in fields else None


def quoted_if_ambiguous(text: str, fields: Mapping[str, Any]) -> str:
    """Return `text` as it stands on the line of its name: a JSON string where it is empty or has a line that begins with a name."""
    if text and not any(_field_of(line, fields) for line in text.split("\n")[1:]):
        return text
    return json.dumps(text, ensure_ascii=False)


# ------------------------------------------------------------------ values


def write_value(value: Any, info: Any, fields: Mapping[str, Any]) -> str:
    """Write one value: the first of plain text, JSON and the name of an enum's member that is read back as the same value.

    A value that none of these gives back is written as plain text: the caller compares what is read with what was written.
    """
    plain = str(format_field_value(info, value))
    by_name = [value.name] if isinstance(value, enum.Enum) else []
    for text in (plain, json.dumps(serialize_for_json(value), ensure_ascii=False), *by_name):
        if reads_back(text, value, info, fields):
            return text
    return plain


def reads_back(text: str, value: Any, info: Any, fields: Mapping[str, Any]) -> bool:
    """Whether `text`, in an answer with these `fields`, is read as `value`."""
    if len(fields) > 1:
        parts = split_lines(f"{next(iter(fields))}: {text}", fields)
        if len(parts) > 1:
            return False
        text = next(iter(parts.values()))
    if not text:
        return False
    try:
        read = read_value(text, info.annotation)
    except (ValueError, SyntaxError):
        return False
    return type(read) is type(value) and bool(read == value or (read != read and value != value))


def read_value(text: str, annotation: Any) -> Any:
    """Read the text of one field as a type. Raises ValueError or SyntaxError.

    Text in double quotes that is a JSON string is read as that string; `null` as None where the type has it.
    """
    text = text.strip()
    unquoted = json_string(text)
    parts = typing.get_args(annotation) if is_union(annotation) else (annotation,)
    if text == "null" and type(None) in parts:
        return None
    if annotation is str or (str in parts and unquoted is not None):
        return text if unquoted is None else unquoted
    if str in parts:
        return _read_text_or(text, [part for part in parts if part not in (str, type(None))])
    try:
        return parse_value(text, annotation)
    except (ValueError, SyntaxError):
        if unquoted is None:
            raise
        return parse_value(unquoted, annotation)


def _read_text_or(text: str, others: list[Any]) -> Any:
    for other in others:
        try:
            return parse_value(text, other)
        except (ValueError, SyntaxError):
            continue
    return text


def json_string(text: str) -> str | None:
    """Return the string that `text` is as JSON, or None."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return None
    try:
        return str(pydantic.TypeAdapter(str).validate_json(text))
    except pydantic.ValidationError:
        return None
