"""The compact prompt adapter: what it writes, and that what it writes is read back."""

import datetime
import enum
import random
from typing import Any, Literal, cast

import dspy
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillhouse_programs import prompts
from stillhouse_programs.compact import CompactAdapter
from stillhouse_programs.grammar import NoGrammar, derive_grammar
from stillhouse_programs.render import Row, render_row
from tests.unit.programs.samples import SAMPLES, Item, Reply, Route
from tests.unit.programs.test_grammar import accepts, compiled, walk


class Colour(enum.Enum):
    RED = "red"
    LINES = "two\nlines"


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


def signature_of(inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
    fields = {name: (kind, dspy.InputField()) for name, kind in inputs.items()}
    return dspy.Signature(fields | {name: (kind, dspy.OutputField()) for name, kind in outputs.items()}, "Do it.")


def answer_of(signature: Any, outputs: dict[str, Any]) -> str:
    return prompts.render_answer(CompactAdapter(), signature, outputs)


class TestPrompts:
    def test_one_input_and_one_output_are_bare_values(self) -> None:
        messages = CompactAdapter().format(Route, [], SAMPLES[0])
        assert messages == [
            {"role": "system", "content": "Route a customer message to one team."},
            {"role": "user", "content": "I was charged twice"},
        ]
        assert answer_of(Route, {"category": "billing"}) == "billing"

    def test_several_are_a_line_each(self) -> None:
        messages = CompactAdapter().format(Reply, [], {"message": "Hi", "category": "other"})
        assert messages[1]["content"] == "message: Hi\ncategory: other"
        assert answer_of(Reply, {"answer": "Hello.\nBye.", "confidence": 0.5}) == "answer: Hello.\nBye.\nconfidence: 0.5"

    def test_an_input_that_is_not_given_has_no_line(self) -> None:
        assert CompactAdapter().format(Reply, [], {"category": "other"})[1]["content"] == "category: other"

    def test_a_line_with_a_label_inside_a_value_is_quoted(self) -> None:
        messages = CompactAdapter().format(Reply, [], {"message": "Hi\ncategory: billing", "category": "other"})
        assert messages[1]["content"] == 'message: "Hi\\ncategory: billing"\ncategory: other'

    def test_without_instructions_there_is_no_system_message(self) -> None:
        assert CompactAdapter(instructions=False).format(Route, [], SAMPLES[0]) == [{"role": "user", "content": "I was charged twice"}]

    def test_an_empty_input_is_said(self) -> None:
        assert CompactAdapter(instructions=False).format(Route, [], {"message": ""}) == [{"role": "user", "content": '""'}]

    def test_demos_are_turns(self) -> None:
        demos = [dspy.Example(message="Refund?", category="billing")]
        turns = [(each["role"], each["content"]) for each in CompactAdapter().format(Route, demos, {"message": "Hi"})[1:]]
        assert turns == [("user", "Refund?"), ("assistant", "billing"), ("user", "Hi")]

    def test_a_conversation_is_turns(self) -> None:
        signature = signature_of({"question": str, "history": dspy.History}, {"answer": str})
        history = dspy.History(messages=[{"question": "1?", "answer": "one"}])
        turns = CompactAdapter().format(signature, [], {"question": "2?", "history": history})[1:]
        assert [each["content"] for each in turns] == ["1?", "one", "2?"]

    def test_a_row_for_openai(self) -> None:
        row = CompactAdapter().format_finetune_data(Route, [], {"message": "Hi"}, {"category": "other"})
        assert [each["role"] for each in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][-1]["content"] == "other"

    def test_an_image_stays_a_part_of_the_message(self) -> None:
        signature = signature_of({"picture": dspy.Image, "question": str}, {"answer": str})
        content = CompactAdapter().format(signature, [], {"picture": dspy.Image("https://x.test/a.png"), "question": "What?"})[1]["content"]
        assert [part["type"] for part in content] == ["text", "image_url", "text"]


class TestReasoning:
    SIGNATURE = dspy.ChainOfThought(Route).predict.signature

    def test_is_a_line_before_the_answer(self) -> None:
        text = answer_of(self.SIGNATURE, {"reasoning": "Money.", "category": "billing"})
        assert text == "reasoning: Money.\ncategory: billing"

    def test_can_be_left_out(self) -> None:
        adapter = CompactAdapter(reasoning=False)
        assert prompts.render_answer(adapter, self.SIGNATURE, {"reasoning": "Money.", "category": "billing"}) == "billing"
        assert prompts.parse(adapter, self.SIGNATURE, "billing") == {"reasoning": "", "category": "billing"}
        assert accepts(derive_grammar(self.SIGNATURE, adapter), "billing")

    def test_rows_go_without_it(self) -> None:
        call = {"inputs": {"message": "Hi"}, "outputs": {"reasoning": "Money.", "category": "billing"}, "overrides": []}
        row = render_row(dspy.ChainOfThought(Route), "predict", call, CompactAdapter(reasoning=False))
        assert isinstance(row, Row), row
        assert row.completion == [{"role": "assistant", "content": "billing"}]

    def test_it_is_read_as_the_type_that_it_has(self) -> None:
        signature = dspy.ChainOfThought(Route, rationale_field_type=dspy.Reasoning).predict.signature
        assert type(prompts.parse(CompactAdapter(reasoning=False), signature, "billing")["reasoning"]) is dspy.Reasoning


class TestReading:
    def test_white_space_around_an_answer_counts_for_nothing(self) -> None:
        assert prompts.parse(CompactAdapter(), Route, " billing\n") == {"category": "billing"}

    def test_lines_in_another_order_and_before_the_first_label(self) -> None:
        text = "Sure!\nconfidence: 0.5\nanswer: Yes.\nIt is."
        assert prompts.parse(CompactAdapter(), Reply, text) == {"answer": "Yes.\nIt is.", "confidence": 0.5}

    @pytest.mark.parametrize("text", ["sales", "category: sales"])
    def test_an_answer_that_is_none_of_the_choices(self, text: str) -> None:
        with pytest.raises(prompts.Unparsable, match="Failed to parse field category"):
            prompts.parse(CompactAdapter(), Route, text)

    def test_an_answer_that_lacks_a_field(self) -> None:
        with pytest.raises(prompts.Unparsable):
            prompts.parse(CompactAdapter(), Reply, "answer: Yes.")

    def test_an_optional_output_may_be_left_out(self) -> None:
        signature = signature_of({"q": str}, {"answer": str, "note": str | None})
        assert prompts.parse(CompactAdapter(), signature, "answer: Yes.") == {"answer": "Yes.", "note": None}


VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(alphabet=st.sampled_from('abc:"\n \\[]{}é\r\x85\u2028') | st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(["out_0: x", "a\nout_1: b", '"a"', "null", "None", "12", "true"]),
    int: st.integers(-(10**12), 10**12),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    Colour: st.sampled_from(Colour),
    Level: st.sampled_from(Level),
    Literal["yes", "no", "out_0: x", 3]: st.sampled_from(["yes", "no", "out_0: x", 3]),
    datetime.date: st.dates(datetime.date(1000, 1, 1), datetime.date(2999, 12, 31)),
    Item: st.builds(Item, name=st.text(max_size=10), qty=st.integers(1, 99)),
}
VALUES |= {kind | None: values | st.none() for kind, values in VALUES.items() if kind is not Item}
a_list, a_dict = cast(Any, list), cast(Any, dict)  # of types that are known at run time only
VALUES |= {a_list[kind]: st.lists(VALUES[kind], max_size=3) for kind in (str, int, bool, Colour, Item)}
VALUES |= {a_dict[str, kind]: st.dictionaries(st.text(max_size=5), VALUES[kind], max_size=3) for kind in (str, int, Item)}
VALUES |= {int | str: st.integers() | VALUES[str]}


@st.composite
def calls(draw: st.DrawFn) -> tuple[Any, dict[str, Any]]:
    """A signature with one to four outputs, and values for them."""
    kinds = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=4))
    outputs = {f"out_{at}": kind for at, kind in enumerate(kinds)}
    return signature_of({"q": str}, outputs), {name: draw(VALUES[kind]) for name, kind in outputs.items()}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(call=calls())
def test_every_value_is_read_back_as_it_was(call: tuple[Any, dict[str, Any]]) -> None:
    signature, outputs = call
    read = prompts.parse(CompactAdapter(), signature, answer_of(signature, outputs))
    assert read == outputs
    assert [type(value) for value in read.values()] == [type(value) for value in outputs.values()]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(call=calls())
def test_a_grammar_lets_through_what_is_written(call: tuple[Any, dict[str, Any]]) -> None:
    signature, outputs = call
    try:
        grammar = derive_grammar(signature, prompts.make_prompt_adapter("compact"))
    except NoGrammar:
        return
    answer = answer_of(signature, outputs)
    assert accepts(grammar, answer), answer


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(call=calls(), seed=st.integers(0, 2**32))
def test_whatever_a_grammar_lets_through_is_read(call: tuple[Any, dict[str, Any]], seed: int) -> None:
    signature, _ = call
    adapter = prompts.make_prompt_adapter("compact")
    try:
        matcher = compiled(derive_grammar(signature, adapter, most_text=20))
    except NoGrammar:
        return
    answer = walk(matcher, random.Random(seed))
    if answer:
        assert set(prompts.parse(adapter, signature, answer)) == set(signature.output_fields)


@settings(max_examples=200, deadline=None)
@given(first=VALUES[str], second=VALUES[str], other_first=VALUES[str], other_second=VALUES[str])
def test_different_inputs_have_different_prompts(first: str, second: str, other_first: str, other_second: str) -> None:
    signature = signature_of({"out_0": str, "out_1": str}, {"a": str})
    one, two = {"out_0": first, "out_1": second}, {"out_0": other_first, "out_1": other_second}
    same = CompactAdapter().format(signature, [], one) == CompactAdapter().format(signature, [], two)
    assert same == (one == two)


def test_a_model_in_an_output_is_json() -> None:
    class Point(pydantic.BaseModel):
        x: int
        y: int

    assert answer_of(signature_of({"q": str}, {"at": Point}), {"at": Point(x=1, y=2)}) == '{"x": 1, "y": 2}'
