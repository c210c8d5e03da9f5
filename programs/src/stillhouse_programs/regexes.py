"""Pieces of regular expressions for constrained answers, in the syntax that Python, Rust and the grammar engines share.

No look-around, no back-references, and explicit character classes only: `\\d` and `.` mean different things in different engines.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

INTEGER = "-?(?:0|[1-9][0-9]{0,39})"
NUMBER = r"-?(?:0|[1-9][0-9]{0,39})(?:\.[0-9]{1,40})?(?:e[+-]?(?:[0-9]{1,2}|[12][0-9]{2}|3[0-2][0-9]))?"
UNIT_INTERVAL = r"(?:0(?:\.[0-9]{1,40})?|1(?:\.0{1,40})?)"
_LONG_MONTH = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
_SHORT_MONTH = "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_FEBRUARY = "02-(?:0[1-9]|1[0-9]|2[0-8])"
_LEAP_YEAR = "(?:[12][0-9](?:0[48]|[2468][048]|[13579][26])|(?:12|16|20|24|28)00)"
DATE = f"(?:[12][0-9]{{3}}-(?:{_LONG_MONTH}|{_SHORT_MONTH}|{_FEBRUARY})|{_LEAP_YEAR}-02-29)"
TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
DATE_TIME = f"{DATE}T{TIME}(?:Z|[+-](?:0[0-9]|1[0-2]):[0-5][0-9])?"
FORMATS = {"date": DATE, "time": TIME, "date-time": DATE_TIME}

_META = frozenset("\\.+*?()|[]{}^$")
_MOST_NUMBERS = 256
_MOST_ITEMS = 64
_KEY_LENGTH = 64
_MOST_LINES = 64
LINE_BREAKS = "\x85\u2028\u2029"
"""Characters beside the line feed at which dspy's line-wise reading breaks lines."""


class NotRegular(ValueError):
    """A JSON schema that no short regular expression stands for."""


def escape(text: str) -> str:
    """Escape text for use inside a regular expression."""
    return "".join(f"\\{sign}" if sign in _META else sign for sign in text)


def choice(patterns: Iterable[str]) -> str:
    """One of several patterns; a single one stands alone."""
    unique = list(dict.fromkeys(patterns))
    return unique[0] if len(unique) == 1 else f"(?:{'|'.join(unique)})"


def sequence(item: str, least: int, most: int, separator: str) -> str:
    """`least` to `most` times `item`, separated."""
    if most <= 0:
        return ""
    many = f"{item}(?:{separator}{item}){{{max(least - 1, 0)},{most - 1}}}"
    return many if least else f"(?:{many})?"


def text_without_header(most: int) -> str:
    """Text of at most `most` pieces that cannot open a field of the chat format: `[[ #` cannot stand in it."""
    piece = r"(?:[^\[]|\[[^\[]|\[\[+(?:[^\[ ]| [^#\[]))"
    return rf"{piece}{{0,{most}}}(?:\[+ ?)?"


def lines_without_label(labels: Iterable[str], most: int) -> str:
    """Text of at most `most` lines or signs of the compact format. No line after the first begins with a label and a colon."""
    words = [f"{label}:" for label in labels]
    if not words:
        return rf"(?:[^\n]|\n){{1,{most}}}"
    line = rf"(?:{_differs(words)}[^\n]{{0,{most}}}|{_ends_early(words)})"
    return rf"[^\n]{{0,{most}}}(?:\n{line}){{0,{_MOST_LINES}}}"


def _differs(words: Sequence[str]) -> str:
    """The start of a line up to the first sign that sets it apart from all of `words`."""
    rests = _rests(words)
    goes_on = [f"{escape(sign)}{_differs(rest)}" for sign, rest in rests.items() if "" not in rest]
    return choice([rf"[^\n{''.join(escape(sign) for sign in rests)}]", *goes_on])


def _ends_early(words: Sequence[str]) -> str:
    """A line that is the start of one of `words`, or empty."""
    goes_on = [f"{escape(sign)}{_ends_early(rest)}" for sign, rest in _rests(words).items() if "" not in rest]
    return f"(?:{'|'.join(goes_on)})?" if goes_on else ""


def _rests(words: Sequence[str]) -> dict[str, list[str]]:
    return {word[0]: [other[1:] for other in words if other[0] == word[0]] for word in words}


def xml_text(least: int, most: int) -> str:
    """Character data of XML: `<` and `&` escaped, no control characters, no `]]>`."""
    controls = r"\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff"
    plain, rest = rf"[^<&\]{controls}]", rf"[^<&\]>{controls}]"
    piece = rf"(?:{plain}|&(?:amp|lt|gt);|\][^<&\]{controls}]|\]\]+{rest})"
    return f"{piece}{{{least},{most}}}"


def whole_numbers(schema: Mapping[str, Any]) -> str:
    """Whole numbers within the bounds of a schema. Raises NotRegular if there are bounds and too many numbers."""
    low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1 if "exclusiveMinimum" in schema else None)
    high = schema.get("maximum", schema.get("exclusiveMaximum", 1) - 1 if "exclusiveMaximum" in schema else None)
    step = schema.get("multipleOf")
    if low is None and high is None and step is None:
        return INTEGER
    if low is None or high is None or high - low >= _MOST_NUMBERS:
        raise NotRegular("bounds on a whole number")
    return choice(str(number) for number in range(int(low), int(high) + 1) if number % (step or 1) == 0)


def numbers(schema: Mapping[str, Any]) -> str:
    """Numbers within the bounds of a schema. Raises NotRegular for bounds other than 0 to 1."""
    bounds = {key: value for key, value in schema.items() if "imum" in key or key == "multipleOf"}
    if not bounds:
        return NUMBER
    if bounds == {"minimum": 0, "maximum": 1}:
        return UNIT_INTERVAL
    raise NotRegular("bounds on a number")


class JsonRegex:
    """Regular expressions for the JSON text of a schema, written as `json.dumps` writes it: one line, `, ` and `: `.

    Objects have all their properties, in order. `forbidden` characters cannot stand in texts.
    """

    def __init__(self, defs: Mapping[str, Any], most_text: int, forbidden: str = "") -> None:
        self.defs = defs
        self.most_text = most_text
        self.sign = rf'(?:[^"\\\x00-\x1f{escape(forbidden)}]|\\["\\/bfnrt]|\\u00[01][0-9a-f])'

    def of(self, schema: Mapping[str, Any]) -> str:
        """Return the pattern. Raises NotRegular."""
        if "$ref" in schema:
            return self.of(self.defs[str(schema["$ref"]).rsplit("/", 1)[-1]])
        if "enum" in schema or "const" in schema:
            return choice(escape(json.dumps(value, ensure_ascii=False)) for value in schema.get("enum", [schema.get("const")]))
        if "anyOf" in schema:
            return choice(self.of(part) for part in schema["anyOf"])
        return self._plain(schema)

    def _plain(self, schema: Mapping[str, Any]) -> str:
        kind = schema.get("type")
        if kind == "string":
            return self._text(schema)
        if kind == "integer":
            return whole_numbers(schema)
        if kind == "number":
            return numbers(schema)
        if kind == "array":
            return rf"\[{self._items(schema)}\]"
        if kind == "object":
            return rf"\{{{self._members(schema)}\}}"
        if kind in ("boolean", "null"):
            return "null" if kind == "null" else "(?:true|false)"
        raise NotRegular("a value of any type")

    def _text(self, schema: Mapping[str, Any]) -> str:
        if "pattern" in schema:
            raise NotRegular("a pattern")
        if "format" in schema:
            return f'"{FORMATS[schema["format"]]}"'
        return f'"{self.sign}{{{schema.get("minLength", 0)},{schema.get("maxLength", self.most_text)}}}"'

    def _items(self, schema: Mapping[str, Any]) -> str:
        if "prefixItems" in schema:
            return ", ".join(self.of(part) for part in schema["prefixItems"])
        if "items" not in schema:
            raise NotRegular("a list of anything")
        return sequence(self.of(schema["items"]), schema.get("minItems", 0), schema.get("maxItems", _MOST_ITEMS), ", ")

    def _members(self, schema: Mapping[str, Any]) -> str:
        if "properties" in schema:
            return ", ".join(f'"{name}": {self.of(part)}' for name, part in schema["properties"].items())
        rest = schema.get("additionalProperties")
        if not isinstance(rest, Mapping):
            raise NotRegular("an object of anything")
        return sequence(f'"{self.sign}{{0,{_KEY_LENGTH}}}": {self.of(rest)}', 0, _MOST_ITEMS, ", ")
