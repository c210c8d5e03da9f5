"""JSON of others, read so that what we keep is what was sent: RFC 8259, and of it only what every reader reads alike (RFC 7493, I-JSON)."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

DEEPEST = 100
"""Levels of a text: less than any later reader of it takes."""
SMALLEST, LARGEST = -(2**63), 2**64 - 1
_MAY_BE_TOO_LARGE = re.compile(rb"[0-9]{19}")


class NotStrict(ValueError):
    """`what` goes on after `The text`, and holds nothing of its values. `line` and `column` are 1-based, or None."""

    def __init__(self, what: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(what)
        self.what, self.line, self.column = what, line, column

    @property
    def of_one_line(self) -> str:
        """The same of a text that is one line of a file."""
        return self.what if self.column is None else f"is not valid JSON: see column {self.column}"


def loads(text: bytes) -> Any:
    """What `text` says.

    Raises NotStrict for what is no JSON in UTF-8 (NaN and Infinity are none), for a key that stands twice in an object, for an integer of
    more than 64 bits, and for more than `DEEPEST` levels: parsers differ in what they make of these, or fail.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        reason = str(error.msg).split(":")[0]
        raise NotStrict(f"is not valid JSON: {reason}", error.lineno, error.colno) from None
    if is_deep(value, DEEPEST):
        raise NotStrict(f"is nested more than {DEEPEST} levels deep")
    look = _KEYS_AND_INTEGERS if _MAY_BE_TOO_LARGE.search(text) else _KEYS
    look.decode(text.decode())
    return value


def is_deep(value: Any, most: int) -> bool:
    """Whether a JSON value has more than `most` levels."""
    level = [value]
    for _ in range(most + 1):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _each_key_once(pairs: list[tuple[str, Any]]) -> None:
    keys = {key for key, _ in pairs}
    if len(keys) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotStrict(f"has the key {twice[:64]!r} twice in one object")


def _check_size(digits: str) -> None:
    if len(digits) > 20 or not SMALLEST <= int(digits) <= LARGEST:
        raise NotStrict("holds an integer of more than 64 bits; send it as text")


# A second look: orjson keeps the last of equal keys and makes a float of a large integer. What these give is thrown away.
_KEYS = json.JSONDecoder(object_pairs_hook=_each_key_once)
_KEYS_AND_INTEGERS = json.JSONDecoder(object_pairs_hook=_each_key_once, parse_int=_check_size)
