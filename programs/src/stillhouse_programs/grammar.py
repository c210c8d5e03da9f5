"""Grammars for constrained answers: what an LM may write under a signature and a prompt adapter, so that every answer parses.

The result is the value of `structured_outputs` in a chat completion request, as vLLM and our LM host take it.
"""

import enum
import functools
import json
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pydantic

from stillhouse_programs import prompts
from stillhouse_programs.compact_text import reads_back, write_value
from stillhouse_programs.grammar_json import answer_schema, value_schema
from stillhouse_programs.grammar_xml import nested_element
from stillhouse_programs.regexes import (
    FORMATS,
    INTEGER,
    LINE_BREAKS,
    NUMBER,
    JsonRegex,
    NotRegular,
    choice,
    escape,
    lines_without_label,
    text_without_header,
    xml_text,
)
from stillhouse_programs.spec import SpecError
from stillhouse_programs.types import is_union, type_name

Grammar: TypeAlias = dict[str, Any]

MOST_TEXT = 4000  # pieces of one text field; an answer that never ends would be cut, and a cut answer does not parse
MOST_JSON_TEXT = 1000  # characters of one text inside a list or object
_LONGEST_REGEX = 40_000
_DATED = {"date": "date", "datetime": "date-time", "time": "time"}


class NoGrammar(ValueError):
    """No grammar can make sure that an answer parses; the text names the field and the type."""


def derive_grammar(signature: Any, prompt_adapter: Any, most_text: int = MOST_TEXT) -> Grammar:
    """Derive the grammar of the answers to `signature` under a dspy prompt adapter.

    Returns `{"regex": …}` where a regular expression says it, `{"json": schema}` for the prompt adapters that ask for JSON, and
    `{"grammar": …}` in llguidance's Lark dialect for objects that need more. Raises NoGrammar for types whose answers dspy does
    not always read, and for prompt adapters that are not known.
    """
    try:
        kind = prompts.describe_prompt_adapter(prompt_adapter).type
    except SpecError as error:
        raise NoGrammar(error.message) from None
    fields = [_Field(name, info.annotation) for name, info in signature.output_fields.items()]
    for field in fields:
        field.check()
    if kind in ("json", "baml"):
        for field in fields:
            field.check_choices()
        return {"json": answer_schema({field.name: field.annotation for field in fields}, MOST_JSON_TEXT, most_text)}
    if kind == "compact":
        return _compact(prompt_adapter.answer_fields(signature), most_text)
    return _xml(fields, most_text) if kind == "xml" else _chat(fields, most_text)


def is_closed(signature: Any) -> bool:
    """Whether every output is one of a few values: a `Literal`, an enum, a truth value, or none."""
    fields = [_Field(name, info.annotation) for name, info in signature.output_fields.items()]
    return all(_has_few_values(part) for field in fields for part in field.parts)


def _has_few_values(part: Any) -> bool:
    return part in (bool, type(None)) or typing.get_origin(part) is Literal or isinstance(part, enum.EnumMeta)


# ------------------------------------------------------------------ chat


def _chat(fields: Sequence["_Field"], most_text: int) -> Grammar:
    style = _Style(text_without_header(most_text), written=str, forbidden=LINE_BREAKS)
    begins = [f"[[ ## {field.name} ## ]]\n" for field in fields]
    ends = [*(f"\n\n{begin}" for begin in begins[1:]), "\n\n[[ ## completed ## ]]"]
    return _framed(begins[0], [_Part(field, end) for field, end in zip(fields, ends, strict=True)], style, optional_end="\n")


# ------------------------------------------------------------------ compact


def _compact(infos: Mapping[str, Any], most_text: int) -> Grammar:
    """One bare value, or a line for each field."""
    several = len(infos) > 1
    style = _Style(lines_without_label(infos if several else (), most_text), written=str)
    fields = [_Field(name, info.annotation, functools.partial(_compact_choice, info, infos)) for name, info in infos.items()]
    begins = [f"{field.name}: " if several else "" for field in fields]
    ends = [*(f"\n{begin}" for begin in begins[1:]), ""]
    return _framed(begins[0], [_Part(field, end) for field, end in zip(fields, ends, strict=True)], style)


def _compact_choice(info: Any, infos: Mapping[str, Any], value: Any) -> str | None:
    text = write_value(value, info, infos)
    return text if reads_back(text, value, info, infos) else None


# ------------------------------------------------------------------ fields between fixed texts


@dataclass(frozen=True)
class _Part:
    """A field, and the fixed text that ends it."""

    field: "_Field"
    end: str


def _framed(begin: str, parts: Sequence[_Part], style: "_Style", optional_end: str = "") -> Grammar:
    """A regular expression where it says all of the answer, else a grammar with a rule for each field. `optional_end` is one character."""
    last = f"{optional_end}?" if optional_end else ""
    try:
        regex = escape(begin) + "".join(f"{part.field.regex(style)}{escape(part.end)}" for part in parts) + last
        if len(regex) <= _LONGEST_REGEX:
            return {"regex": regex}
    except NotRegular:
        pass  # a part that only a JSON schema says
    names = [f"field_{at}" for at in range(len(parts))]
    start = [*([json.dumps(begin)] if begin else []), *names, *([f"{json.dumps(optional_end)}?"] if optional_end else [])]
    rules = [f"{name}: {_rule(part, style)}" for name, part in zip(names, parts, strict=True)]
    return {"grammar": "\n".join([f"start: {' '.join(start)}", *rules]) + "\n"}


def _rule(part: _Part, style: "_Style") -> str:
    """A field's end is in the lexeme of its value: a lexeme is as long as it can be, and text would go on into the next field."""
    try:
        pattern = part.field.regex(style) + escape(part.end).replace("\n", "\\n")
        return f"/{pattern.replace('/', chr(92) + '/')}/"
    except NotRegular:
        schema = json.dumps(value_schema(part.field.annotation, MOST_JSON_TEXT))
        return f"%json {schema}{f' {json.dumps(part.end)}' if part.end else ''}"


# ------------------------------------------------------------------ XML


def _xml(fields: Sequence["_Field"], most_text: int) -> Grammar:
    style = _Style(xml_text(0, most_text), written=xml_escaped, forbidden=f"<&>{LINE_BREAKS}")
    return {"regex": "\n\n".join(_xml_field(field, style) for field in fields) + "\n?"}


def _xml_field(field: "_Field", style: "_Style") -> str:
    try:
        if prompts.nests_in_xml(field.annotation):
            return nested_element(field.name, field.annotation, MOST_JSON_TEXT)
        return f"<{field.name}>\n{field.regex(style)}\n</{field.name}>"
    except NotRegular as error:
        raise NoGrammar(f"field {field.name}: {type_name(field.annotation)} has {error}, which XML answers cannot be held to") from None


def xml_escaped(text: str) -> str:
    """Write text as character data."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


# ------------------------------------------------------------------ one field as text


@dataclass(frozen=True)
class _Style:
    """How values stand in an answer: the pattern of free text, how a fixed text is written, and signs that JSON must not hold."""

    free_text: str
    written: Callable[[str], str]
    forbidden: str = ""


@dataclass(frozen=True)
class _Field:
    name: str
    annotation: Any
    # Returns the spelling of a choice that is read back as it, where a prompt adapter reads values in its own way.
    spell: Callable[[Any], str | None] | None = None

    @property
    def parts(self) -> tuple[Any, ...]:
        """The members of a union; a type that is none stands alone."""
        return typing.get_args(self.annotation) if is_union(self.annotation) else (self.annotation,)

    def check(self) -> None:
        if any(getattr(part, "__module__", "").startswith("dspy.") for part in self.parts):
            raise NoGrammar(f"field {self.name}: answers of the type {type_name(self.annotation)} cannot be constrained")
        if len(self.parts) > 1 and str in self.parts and type(None) not in self.parts:
            raise NoGrammar(f"field {self.name}: dspy cannot read every text as {type_name(self.annotation)}; use text alone")

    def check_choices(self) -> None:
        """dspy reads some choices as something else, as the text `12` of an optional choice as a number."""
        for part in self.parts:
            values = typing.get_args(part) if typing.get_origin(part) is Literal else ()
            for value in values:
                if not self._reads(value, value):
                    raise self._unread(value)

    def regex(self, style: _Style) -> str:
        """Return the pattern of the value. Raises NotRegular, or NoGrammar if no value can be read back."""
        if str in self.parts or Any in self.parts:
            return style.free_text
        return choice(pattern for part in self.parts for pattern in self._part(part, style))

    def _part(self, part: Any, style: _Style) -> Iterator[str]:
        scalars = {int: INTEGER, float: NUMBER, bool: "(?:True|False)", type(None): "None"}
        if part in scalars:
            yield scalars[part]
        elif typing.get_origin(part) is Literal:
            yield from self._choices([(value, (str(value), json.dumps(value))) for value in typing.get_args(part)], style)
        elif isinstance(part, enum.EnumMeta):
            members: list[Any] = list(part)
            yield from self._choices([(member, (str(member.value), member.name)) for member in members], style)
        elif getattr(part, "__name__", "") in _DATED and part.__module__ == "datetime":
            yield FORMATS[_DATED[part.__name__]]
        else:
            schema = pydantic.TypeAdapter(part).json_schema()
            yield JsonRegex(schema.get("$defs", {}), MOST_JSON_TEXT, style.forbidden).of(schema)

    def _choices(self, values: list[tuple[Any, tuple[str, ...]]], style: _Style) -> list[str]:
        """For each value the first spelling that dspy reads back as that value."""
        spelled = [self.spell(value) if self.spell else self._spelled(value, texts) for value, texts in values]
        if None in spelled:
            raise self._unread(values[spelled.index(None)][0])
        return [escape(style.written(text)) for text in spelled if text is not None]

    def _spelled(self, value: Any, texts: tuple[str, ...]) -> str | None:
        return next((text for text in texts if self._reads(text, value)), None)

    def _unread(self, value: Any) -> NoGrammar:
        return NoGrammar(f"field {self.name}: dspy cannot read {value!r} back from an answer")

    def _reads(self, written: Any, value: Any) -> bool:
        text = "\n".join(written.splitlines()).strip() if isinstance(written, str) else written
        try:
            read = prompts.read_value(text, self.annotation)
        except (ValueError, SyntaxError):
            return False
        return type(read) is type(value) and bool(read == value)
