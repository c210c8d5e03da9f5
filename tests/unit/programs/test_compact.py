"""The compact prompt adapter: what it writes, and that what it writes is read back."""

from typing import Any

import dspy
import pydantic
import pytest
from hypothesis import given, settings

from stillhouse_programs import prompts
from stillhouse_programs.compact import CompactAdapter
from stillhouse_programs.grammar import derive_grammar
from stillhouse_programs.render import Row, render_row
from stillhouse_programs.spec import SpecError, parse_prompt_adapter
from tests.unit.programs.compact_calls import TEXTS, signature_of
from tests.unit.programs.samples import SAMPLES, Reply, Route
from tests.unit.programs.test_grammar import accepts


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

    def test_is_no_option_of_another_adapter(self) -> None:
        with pytest.raises(SpecError, match=r"^prompt_adapter: reasoning is an option of the type compact, not of chat$") as caught:
            parse_prompt_adapter({"reasoning": False})
        assert caught.value.param == "prompt_adapter"


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


@settings(max_examples=200)
@given(first=TEXTS, second=TEXTS, other_first=TEXTS, other_second=TEXTS)
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
