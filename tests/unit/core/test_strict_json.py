"""What is kept is what was sent, or it is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill import strict_json
from distill.strict_json import NotStrict

SCALAR = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.text())
VALUE = st.recursive(SCALAR, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)), max_leaves=20)


@given(VALUE)
def test_reads_what_python_wrote(value: Any) -> None:
    try:
        text = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert strict_json.loads(text) == value


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"{", "is not valid JSON"),
        (b"[NaN]", "is not valid JSON"),
        (b"[1e999]", "is not valid JSON"),
        (b'["\\ud800"]', "is not valid JSON"),
        (b"\xef\xbb\xbf{}", "is not valid JSON"),
        ('{"a": 1}'.encode("utf-16"), "is not valid JSON"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "has the key 'b' twice in one object"),
        (b'{"a": 1, "\\u0061": 2}', "has the key 'a' twice in one object"),
        (b"[18446744073709551616]", "holds an integer of more than 64 bits"),
        (b"[-9223372036854775809]", "holds an integer of more than 64 bits"),
        (b"[" + b"9" * 300 + b"]", "holds an integer of more than 64 bits"),
        (b"[" + b"9" * 5000 + b"]", "is not valid JSON"),
        (b"[" * 102 + b"]" * 102, "is nested more than 100 levels deep"),
        (b'{"a":' * 102 + b"1" + b"}" * 102, "is nested more than 100 levels deep"),
        (b"[" * 100_000, "is not valid JSON"),
    ],
)
def test_refuses_what_readers_differ_in(text: bytes, what: str) -> None:
    with pytest.raises(NotStrict) as refused:
        strict_json.loads(text)
    assert refused.value.what.startswith(what)


def test_names_the_place_of_a_fault() -> None:
    with pytest.raises(NotStrict) as refused:
        strict_json.loads(b'{\n "secret": x}')
    assert (refused.value.line, refused.value.column) == (2, 12)
    assert "secret" not in refused.value.what


def test_takes_what_is_deep_but_not_too_deep() -> None:
    text = b"[" * 100 + b"]" * 100
    assert strict_json.loads(text) is not None


@pytest.mark.parametrize("number", [-(2**63), 2**63, 2**64 - 1, -1, 0])
def test_integers_at_the_edge_stay_what_they_are(number: int) -> None:
    assert strict_json.loads(str(number).encode()) == number
    assert isinstance(strict_json.loads(str(number).encode()), int)
