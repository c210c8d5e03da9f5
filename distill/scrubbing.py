"""Personal data that can be told by its form, taken out of what is stored: e-mail addresses, phone numbers, card numbers, IBANs.

Each becomes a placeholder, `[EMAIL_1]`, the same for the same value wherever it stands in a trace: what a program answered then still is
what its LM said, and can be read back. Names, addresses and whatever has no form of its own stay.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

from phonenumbers import SUPPORTED_REGIONS, Leniency, PhoneNumberFormat, PhoneNumberMatcher, format_number
from stdnum import iban, luhn

Json = Any

COUNTRIES: frozenset[str] = frozenset(SUPPORTED_REGIONS)
NO_COUNTRY = "ZZ"
"""Phone numbers are known by their + alone."""
_PARTS = ("inputs", "outputs", "raw", "reasoning", "tool_calls", "error")
"""Of a trace and of its calls, what a user or an LM wrote, in the order in which placeholders are numbered."""
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,63}")
_IBAN = re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}(?!\w)")
_CARD = re.compile(r"(?<!\d)[2-6](?:[ -]?\d){12,18}(?!\d)")
_SEPARATOR = re.compile(r"[ -]")
_PHONE = re.compile(r"\d(?:\W{0,3}\d){5}")
"""What may be one: to look for phone numbers costs more than all else."""
_ESCAPED = re.compile(r"\\+(?:[bfnrt]|u[0-9A-Fa-f]{4})")
"""What stands in JSON for a character that is no part of a value, and would be read as a letter of it."""
_HEAD = 2
_DIGITS = re.compile(r"\d\d")
_NUMBER = re.compile(r"\[(EMAIL|IBAN|CARD|PHONE)_\d+\]")


def scrubbed_trace(body: Mapping[str, Any], country: str) -> dict[str, Any]:
    """A trace as it may be stored. Only what its user and its LMs wrote changes; `country` is whose national phone numbers are known."""
    holders = [body, *body["calls"]]
    found = [[(name, holder[name]) for name in _PARTS if name in holder] for holder in holders]
    scrubbed = iter(_together([value for parts in found for _, value in parts], country))
    trace, *calls = [{**holder, **{name: next(scrubbed) for name, _ in parts}} for holder, parts in zip(holders, found, strict=True)]
    return {**trace, "calls": calls}


def scrubbed(value: Json, country: str) -> Json:
    """Any JSON value by itself, its placeholders numbered from 1."""
    return _together([value], country)[0]


def same_but_for_numbers(one: Json, other: Json) -> bool:
    """Whether two scrubbed values are the same wherever their placeholders' numbers began."""
    return bool(_mapped(one, _without_numbers) == _mapped(other, _without_numbers))


def _without_numbers(text: str) -> str:
    return _NUMBER.sub(r"[\1]", text)


def _together(values: Sequence[Json], country: str) -> list[Json]:
    """What is found in any text is replaced in all of them, so that a text that holds another still does."""
    texts = dict.fromkeys(text for value in values for text in _texts(value))
    names = _Names(country, {match.group() for text in texts for match in _NUMBER.finditer(text)})
    for text in texts:
        names.learn(text)
    return [_mapped(value, names.replace) for value in values] if names.values else list(values)


class _Names:
    """The values of one trace, and the placeholder of each. Those that are `taken` stand in it already, for nobody knows whom."""

    def __init__(self, country: str, taken: Collection[str]) -> None:
        self.values: dict[str, str] = {}
        self._taken = taken
        self._placeholders: dict[tuple[str, str], str] = {}
        self._numbers: Counter[str] = Counter()
        self._phones_of = cache(lambda line: tuple(_phones(line, country)))

    def learn(self, text: str) -> None:
        """Longer kinds first: digits of an IBAN are no card's. What is found leaves the end of a line behind, which is part of nothing."""
        text = _ESCAPED.sub("\n", text)
        for kind, find in {**_KINDS, "PHONE": self._phones}.items():
            parts, at = [], 0
            for start, value, normal in find(text):
                self._name(kind, value, normal)
                parts.append(text[at:start])
                at = start + len(value)
            text = "\n".join([*parts, text[at:]])

    def _phones(self, text: str) -> Found:
        """By lines, which none goes beyond: texts of a trace share many."""
        at = 0
        for line in text.split("\n"):
            yield from ((at + start, value, normal) for start, value, normal in self._phones_of(line))
            at += len(line) + 1

    def _name(self, kind: str, value: str, normal: str) -> None:
        if (kind, normal) not in self._placeholders:
            self._placeholders[kind, normal] = self._free(kind)
        for written in {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}:
            self.values[written] = self._placeholders[kind, normal]

    def _free(self, kind: str) -> str:
        while (placeholder := f"[{kind}_{self._numbers[kind] + 1}]") in self._taken:
            self._numbers[kind] += 1
        self._numbers[kind] += 1
        return placeholder

    @cached_property
    def _lengths(self) -> dict[str, list[int]]:
        """By how values begin, how long those are, the longest first. A pattern of all of them would try one after the other."""
        found: dict[str, set[int]] = {}
        for value in self.values:
            found.setdefault(value[:_HEAD], set()).add(len(value))
        return {head: sorted(lengths, reverse=True) for head, lengths in found.items()}

    @cached_property
    def _starts(self) -> re.Pattern[str]:
        return re.compile(f"[{re.escape(''.join({value[0] for value in self.values}))}]")

    def replace(self, text: str) -> str:
        parts, done = [], 0
        for match in self._starts.finditer(text):
            start = match.start()
            if start >= done and (end := self._end_of_value(text, start)):
                parts += [text[done:start], self.values[text[start:end]]]
                done = end
        return "".join([*parts, text[done:]])

    def _end_of_value(self, text: str, start: int) -> int | None:
        ends = (start + length for length in self._lengths.get(text[start : start + _HEAD], ()))
        return next((end for end in ends if text[start:end] in self.values and not _is_in_a_number(text, start, end)), None)


def _is_in_a_number(text: str, start: int, end: int) -> bool:
    """Whether a value has more digits beside its own."""
    return bool(_DIGITS.match(text[max(0, start - 1) : start + 1]) or _DIGITS.match(text[end - 1 : end + 1]))


Found = Iterator[tuple[int, str, str]]
"""Where values begin, how they are written, and what is the same for all ways to write them."""


def _emails(text: str) -> Found:
    if "@" in text:
        yield from ((match.start(), match.group(), match.group().lower()) for match in _EMAIL.finditer(text))


def _ibans(text: str) -> Found:
    return _valid(_IBAN, lambda value: bool(iban.is_valid(value, check_country=False)), text)


def _cards(text: str) -> Found:
    return _valid(_CARD, lambda value: 13 <= len(_compact(value)) <= 19 and bool(luhn.is_valid(_compact(value))), text)


def _phones(text: str, country: str) -> Found:
    if _PHONE.search(text) and (country != NO_COUNTRY or "+" in text):
        for match in PhoneNumberMatcher(text, country, leniency=Leniency.VALID):
            yield match.start, match.raw_string, format_number(match.number, PhoneNumberFormat.E164)


_KINDS: Mapping[str, Callable[[str], Found]] = {"EMAIL": _emails, "IBAN": _ibans, "CARD": _cards}


def _valid(pattern: re.Pattern[str], is_valid: Callable[[str], bool], text: str) -> Found:
    """What looks like one and has its check digits. Words that follow after a space may look as if they belonged to it."""
    at = 0
    while match := pattern.search(text, at):
        value = match.group()
        while value and not is_valid(value):
            cut = [separator.start() for separator in _SEPARATOR.finditer(value)]
            value = value[: cut[-1]] if cut else ""
        if value:
            yield match.start(), value, _compact(value)
        at = match.start() + (len(value) or 1)


def _compact(value: str) -> str:
    return _SEPARATOR.sub("", value).upper()


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _mapped(value: Json, change: Callable[[str], str]) -> Json:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return value
