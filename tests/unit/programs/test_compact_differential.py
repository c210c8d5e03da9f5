"""Generated signatures and values through the compact prompt adapter: what is rendered, parsed, streamed and let through is the same."""

import asyncio
import random
from typing import Any

import dspy
import pytest
from dspy.streaming import StreamListener
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse_programs import prompts
from stillhouse_programs.compact import CompactAdapter
from stillhouse_programs.compact_text import read_value
from stillhouse_programs.grammar import NoGrammar, derive_grammar
from stillhouse_programs.pinning import pin
from stillhouse_programs.render import Rejection, render_row
from tests.unit.programs.compact_calls import LOSSY, calls
from tests.unit.programs.compact_stream import cut, heard, joined, predictor
from tests.unit.programs.test_grammar import accepts, compiled, walk

Call = tuple[Any, dict[str, Any], dict[str, Any]]
CALLS: Any = {"call": calls(), "seed": st.integers(0, 2**32), "reasoning": st.booleans()}


def check(call: Call, seed: int, reasoning: bool) -> None:
    signature, inputs, outputs = call
    adapter, rnd = CompactAdapter(reasoning=reasoning), random.Random(seed)
    types = {name: field.annotation for name, field in signature.output_fields.items()}
    row = render_row(dspy.Predict(signature), "self", {"inputs": inputs, "outputs": outputs}, adapter)
    if isinstance(row, Rejection):
        named = [name for name in outputs if f"`{name}`" in row.message or f"field {name} " in row.message]
        assert row.reason == "not_round_trip"
        assert [types[name] in LOSSY for name in named] == [True], row
        return
    answer = row.completion[0]["content"]
    read = prompts.parse(adapter, signature, answer)
    left_out = outputs.keys() - adapter.answer_fields(signature).keys()
    expected = {name: "" if name in left_out else value for name, value in outputs.items()}
    assert same(read, expected)
    check_stream(signature, adapter, inputs, cut(answer, rnd), expected)
    check_grammar(signature, adapter, answer, rnd)


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one == two and [type(value) for value in one.values()] == [type(value) for value in two.values()]


def check_stream(signature: Any, adapter: CompactAdapter, inputs: dict[str, Any], pieces: list[str], outputs: dict[str, Any]) -> None:
    """Every field of the answer is streamed as it is parsed."""
    listeners = [StreamListener(signature_field_name=name) for name in adapter.answer_fields(signature)]
    asked = pin(predictor(signature, pieces), adapter)
    said, prediction = asyncio.run(heard(asked, listeners, inputs))
    assert same(dict(prediction.items()), outputs)
    for name in adapter.answer_fields(signature):
        text, annotation = joined(said, name), signature.output_fields[name].annotation
        assert (text if annotation is str else read_value(text, annotation)) == outputs[name]


def check_grammar(signature: Any, adapter: CompactAdapter, answer: str, rnd: random.Random) -> None:
    """A grammar lets the answer through, and whatever else it lets through can be read."""
    try:
        grammar, small = derive_grammar(signature, adapter), derive_grammar(signature, adapter, most_text=20)
    except NoGrammar:
        return
    assert accepts(grammar, answer), answer
    at = rnd.randrange(len(answer))
    changed = answer[:at] + rnd.choice(["", "\n", '"', ":", "0", " "]) + answer[at + 1 :]
    for other in [walk(compiled(small), rnd), *([changed] if accepts(grammar, changed) else [])]:
        assert prompts.parse(adapter, signature, other).keys() == signature.output_fields.keys()


@settings(max_examples=100)
@given(**CALLS)
def test_rows_streams_and_grammars_agree(call: Call, seed: int, reasoning: bool) -> None:
    check(call, seed, reasoning)


@pytest.mark.slow
@settings(max_examples=2000)
@given(**CALLS)
def test_rows_streams_and_grammars_agree_on_many(call: Call, seed: int, reasoning: bool) -> None:
    check(call, seed, reasoning)
