"""A grammar of few texts is told from all others, and its texts are listed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher

from engines.lmhost.alternatives import MOST, alternatives
from stillhouse_programs.regexes import escape


def of_regex(pattern: str) -> list[str] | None:
    return alternatives(LLMatcher.grammar_from_regex(pattern))


def of_schema(schema: dict[str, Any]) -> list[str] | None:
    return alternatives(LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": False}))


def one_of(count: int) -> str:
    return f"(?:{'|'.join(f'label {number}' for number in range(count))})"


Language = tuple[str, frozenset[str]]


def _both(parts: tuple[Language, Language]) -> Language:
    (first, left), (second, right) = parts
    return f"{first}{second}", frozenset(a + b for a in left for b in right)


def _either(parts: list[Language]) -> Language:
    return f"(?:{'|'.join(pattern for pattern, _ in parts)})", frozenset[str]().union(*(texts for _, texts in parts))


def _maybe(part: Language) -> Language:
    return f"(?:{part[0]})?", part[1] | {""}


def _repeated(part: Language) -> Language:
    once = part[1]
    return f"(?:{part[0]}){{1,2}}", once | {a + b for a in once for b in once}


_LITERALS = st.text("abé[]|\n 1€😀", min_size=1, max_size=4).map(lambda text: (escape(text), frozenset({text})))


def _larger(inner: st.SearchStrategy[Language]) -> st.SearchStrategy[Language]:
    either = st.lists(inner, min_size=2, max_size=4).map(_either)
    return st.tuples(inner, inner).map(_both) | either | inner.map(_maybe) | inner.map(_repeated)


_LANGUAGES = st.recursive(_LITERALS, _larger, max_leaves=8)


class TestFew:
    @given(_LANGUAGES)
    def test_are_those_of_the_language(self, language: Language) -> None:
        pattern, texts = language
        kept = {text for text in texts if not (text.endswith("\n") and text[:-1] in texts)}
        if len(texts) <= MOST:
            assert set(of_regex(pattern) or []) == kept

    def test_the_last_that_counts(self) -> None:
        assert len(of_regex(one_of(MOST) + "\n?") or []) == MOST
        assert of_regex(one_of(MOST + 1)) is None

    def test_of_a_schema(self) -> None:
        level = {"type": "integer", "minimum": 1, "maximum": 10}
        properties = {"label": {"enum": ['a "b"', "é"]}, "sure": {"type": "boolean"}, "level": level}
        found = of_schema({"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False})
        values = [json.loads(text) for text in found or []]
        assert len(values) == 2 * 2 * 10
        assert {value["level"] for value in values} == set(range(1, 11))

    def test_of_a_grammar(self) -> None:
        assert alternatives(LLMatcher.grammar_from_lark('start: "yes" | "no" " " /[0-2]/')) == ["no 0", "no 1", "no 2", "yes"]


@pytest.mark.parametrize("pattern", ["a*", "(?:ab?)+c", "[a-z]{1000}", r"(?:[^\[]|\[[^\[]){0,1000}x", "a{5000}b?", "-?[0-9]{1,40}"])
def test_many_or_long_texts_are_refused(pattern: str) -> None:
    assert of_regex(pattern) is None


@pytest.mark.parametrize("source", ['start: "a" start', 'start: <|im_end|> "a"'])
def test_no_text_and_other_tokens_than_text_are_refused(source: str) -> None:
    assert alternatives(LLMatcher.grammar_from_lark(source)) is None
