"""Constrained answers: whatever a grammar lets through parses, and what a program answers is let through."""

import datetime
import json
import random
import re
from typing import Any, Literal

import dspy
import llguidance
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillhouse_programs import prompts
from stillhouse_programs.fake_values import fake_value
from stillhouse_programs.grammar import Grammar, NoGrammar, derive_grammar
from tests.unit.programs.samples import Closed, Color, Item, Level, Order, Price, Reply, Route, Tone

TOKENIZER = llguidance.LLTokenizer("byte")

# Under every prompt adapter.
COMMON: list[Any] = [
    str, int, float, bool, Literal["a", "b c", "x.y"], Literal[1, 2], Literal["a'b", 'c"d', "<e> & f"], Color, Tone,
    str | None, int | None, Literal["x", "y"] | None, list[str], list[int], list[Literal["a", "b"]],
    datetime.date, datetime.datetime, Item, Order, Closed, Any, set[str], tuple[int, str], list[list[int]], bool | None,
    Color | None, list[Order], Order | None,
]  # fmt: skip


def signature_of(*annotations: Any) -> Any:
    """A signature with one output of each type."""
    outputs = {f"out_{at}": (annotation, dspy.OutputField()) for at, annotation in enumerate(annotations)}
    return dspy.Signature({"question": (str, dspy.InputField()), **outputs}, "Answer.")


def compiled(grammar: Grammar) -> Any:
    """The grammar as the LM host compiles it; fails on one that it refuses."""
    kind, value = next(iter(grammar.items()))
    make = {
        "regex": llguidance.LLMatcher.grammar_from_regex,
        "grammar": llguidance.LLMatcher.grammar_from_lark,
        "json": llguidance.LLMatcher.grammar_from_json_schema,
    }[kind]
    text = json.dumps(value) if kind == "json" else value
    matcher = llguidance.LLMatcher(TOKENIZER, make(text), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def accepts(grammar: Grammar, text: str) -> bool:
    matcher = compiled(grammar)
    tokens = TOKENIZER.tokenize_str(text)
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


def walk(matcher: Any, rnd: random.Random) -> str:
    """Write an answer byte by byte, each drawn from those that the grammar allows next, most often one that moves it to its end."""
    written: list[int] = []
    while not matcher.is_accepting():
        allowed = [at for at, bias in enumerate(matcher.compute_logit_bias()) if bias and at < 256]
        closing = [at for at in allowed if chr(at) in '"]},: \n[/<>#0123456789abcdet']
        token = rnd.choice(closing if closing and rnd.random() < 0.9 else allowed)
        assert matcher.consume_token(token)
        written.append(token)
    return bytes(written).decode("utf-8")


def readable(adapter: dspy.Adapter, signature: Any, outputs: dict[str, Any], answer: str) -> bool:
    """Whether dspy reads an answer of its own back; some types it does not."""
    try:
        return bool(prompts.parse(adapter, signature, answer) == outputs)
    except prompts.Unparsable:
        return False


@pytest.mark.parametrize("kind", ["baml", "chat", "compact", "json", "xml"])
@pytest.mark.parametrize("annotation", COMMON, ids=str)
class TestCommonTypes:
    def test_lets_through_what_a_program_answers(self, annotation: Any, kind: str) -> None:
        adapter, signature = prompts.make_prompt_adapter(kind), signature_of(annotation, str)
        grammar, rnd, seen = derive_grammar(signature, adapter), random.Random(7), 0
        for _ in range(8):
            outputs = {name: fake_value(field.annotation, rnd) for name, field in signature.output_fields.items()}
            answer = prompts.render_answer(adapter, signature, outputs)
            if readable(adapter, signature, outputs, answer):
                assert accepts(grammar, answer), answer
                seen += 1
        assert seen

    def test_parses_whatever_it_lets_through(self, annotation: Any, kind: str) -> None:
        adapter, signature = prompts.make_prompt_adapter(kind), signature_of(annotation, str)
        matcher, rnd = compiled(derive_grammar(signature, adapter, most_text=20)), random.Random(3)
        for _ in range(6):
            answer = walk(matcher, rnd)
            outputs = prompts.parse(adapter, signature, answer)
            assert set(outputs) == {"out_0", "out_1"}
            matcher.reset()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), annotation=st.sampled_from(COMMON), kind=st.sampled_from(["chat", "compact", "xml"]))
def test_every_answer_under_a_regex_parses(data: st.DataObject, annotation: Any, kind: str) -> None:
    adapter, signature = prompts.make_prompt_adapter(kind), signature_of(str, annotation)
    grammar = derive_grammar(signature, adapter, most_text=30)
    answer = data.draw(st.from_regex(re.compile(grammar["regex"]), fullmatch=True))
    assert set(prompts.parse(adapter, signature, answer)) == {"out_0", "out_1"}


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("[]# ab\n"), max_size=30))
def test_free_text_opens_no_field(text: str) -> None:
    adapter, signature = prompts.make_prompt_adapter("chat"), signature_of(str)
    answer = f"[[ ## out_0 ## ]]\n{text}\n\n[[ ## completed ## ]]\n"
    if accepts(derive_grammar(signature, adapter), answer):
        assert prompts.parse(adapter, signature, answer)["out_0"] == "\n".join(text.splitlines()).strip()
    else:
        assert "[[ #" in text or "[[ [" in text


class TestForms:
    def test_a_choice_is_a_short_regex(self) -> None:
        grammar = derive_grammar(Route, prompts.make_prompt_adapter("chat"))
        form = r"\[\[ ## category ## \]\]" + "\n(?:billing|technical|account|other)\n\n" + r"\[\[ ## completed ## \]\]" + "\n?"
        assert grammar == {"regex": form}

    def test_json_answers_have_all_fields_and_no_more(self) -> None:
        schema = derive_grammar(Reply, prompts.make_prompt_adapter("json"))["json"]
        assert schema["required"] == ["answer", "confidence"]
        assert schema["additionalProperties"] is False

    def test_an_object_with_bounds_is_a_lark_grammar_under_chat(self) -> None:
        signature, adapter = signature_of(Price), prompts.make_prompt_adapter("chat")
        grammar = derive_grammar(signature, adapter)
        assert list(grammar) == ["grammar"]
        assert accepts(grammar, prompts.render_answer(adapter, signature, {"out_0": Price(amount=3.5, code="EUR")}))
        refused = '[[ ## out_0 ## ]]\n{"amount": -1, "code": "EUR"}\n\n[[ ## completed ## ]]\n'
        assert not accepts(grammar, refused)

    @pytest.mark.parametrize("kind", ["chat", "compact"])
    def test_text_before_an_object_with_bounds_ends_where_the_next_field_begins(self, kind: str) -> None:
        adapter, signature = prompts.make_prompt_adapter(kind), signature_of(str, int, Price, str)
        outputs = {"out_0": "Hello\n\nthere", "out_1": 3, "out_2": Price(amount=3.5, code="EUR"), "out_3": "so\nlong"}
        grammar = derive_grammar(signature, adapter)
        assert list(grammar) == ["grammar"]
        assert accepts(grammar, prompts.render_answer(adapter, signature, outputs))

    def test_an_enum_of_numbers_is_written_by_name(self) -> None:
        adapter, signature = prompts.make_prompt_adapter("chat"), signature_of(Level)
        grammar = derive_grammar(signature, adapter)
        assert accepts(grammar, "[[ ## out_0 ## ]]\nHIGH\n\n[[ ## completed ## ]]\n")
        assert not accepts(grammar, "[[ ## out_0 ## ]]\n2\n\n[[ ## completed ## ]]\n")

    def test_a_text_cannot_be_longer_than_the_bound(self) -> None:
        grammar = derive_grammar(signature_of(str), prompts.make_prompt_adapter("chat"), most_text=5)
        assert accepts(grammar, "[[ ## out_0 ## ]]\n12345\n\n[[ ## completed ## ]]\n")
        assert not accepts(grammar, "[[ ## out_0 ## ]]\n123456789\n\n[[ ## completed ## ]]\n")


class TestRefusals:
    @pytest.mark.parametrize("kind", ["baml", "chat", "compact", "json", "xml"])
    def test_a_union_with_text(self, kind: str) -> None:
        with pytest.raises(NoGrammar, match="field out_0: dspy cannot read every text"):
            derive_grammar(signature_of(int | str), prompts.make_prompt_adapter(kind))

    def test_keys_of_their_own_under_xml(self) -> None:
        with pytest.raises(NoGrammar, match="keys of its own"):
            derive_grammar(signature_of(dict[str, int]), prompts.make_prompt_adapter("xml"))

    def test_a_choice_that_dspy_does_not_read(self) -> None:
        with pytest.raises(NoGrammar, match="cannot read '12' back"):
            derive_grammar(signature_of(Literal["x", "12"] | None), prompts.make_prompt_adapter("json"))

    def test_a_prompt_adapter_of_their_own(self) -> None:
        class Mine(dspy.ChatAdapter):
            pass

        with pytest.raises(NoGrammar, match="for the prompt adapter Mine"):
            derive_grammar(Route, Mine())
