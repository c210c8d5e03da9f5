"""Training rows: rendered with the student's own prompt, read back, and rejected with a reason."""

from typing import Any, Literal

import dspy
import pytest

from stillhouse_programs import prompts
from stillhouse_programs.prove import ScriptedAdapter
from stillhouse_programs.render import IncompleteDemo, Rejection, Row, render_row, student_demos
from tests.unit.programs.samples import DEMO, Item, Level, Order, Support

CHAT = prompts.make_prompt_adapter("chat")
INPUTS = {"message": "I was charged twice", "category": "billing"}
OUTPUTS = {"answer": "We refund it.", "confidence": 0.9}


def call_of(outputs: Any = OUTPUTS, inputs: Any = INPUTS, overrides: Any = ()) -> dict[str, Any]:
    return {"predictor": "reply", "inputs": inputs, "outputs": outputs, "raw": "", "overrides": list(overrides)}


def row_of(result: Row | Rejection) -> Row:
    assert isinstance(result, Row), result
    return result


def predictor_of(annotation: Any) -> dspy.Module:
    return dspy.Predict(dspy.Signature({"q": (str, dspy.InputField()), "y": (annotation, dspy.OutputField())}, "Do it."))


def row_with(annotation: Any, value: Any, kind: str = "chat") -> Row | Rejection:
    call = {"predictor": "self", "inputs": {"q": "x"}, "outputs": {"y": value}, "overrides": []}
    return render_row(predictor_of(annotation), "self", call, prompts.make_prompt_adapter(kind))


class TestRow:
    @pytest.mark.parametrize("kind", ["baml", "chat", "compact", "json", "xml"])
    def test_the_prompt_is_what_the_student_sends(self, kind: str) -> None:
        student, adapter = Support(), prompts.make_prompt_adapter(kind)
        row = row_of(render_row(student, "reply", call_of(), adapter))
        scripted = ScriptedAdapter(adapter, 0)
        with dspy.context(lm=prompts.stand_in_lm(), adapter=scripted):
            student.reply(**INPUTS)
        planned = adapter.format(student.reply.signature, student.reply.demos, INPUTS)
        assert row.prompt == planned
        assert [message["role"] for message in row.prompt] == ["system", "user", "assistant", "user"]

    def test_the_completion_is_one_answer_in_the_form_of_the_prompt(self) -> None:
        row = row_of(render_row(Support(), "reply", call_of(), CHAT))
        text = "[[ ## answer ## ]]\nWe refund it.\n\n[[ ## confidence ## ]]\n0.9\n\n[[ ## completed ## ]]\n"
        assert row.completion == [{"role": "assistant", "content": text}]

    def test_the_students_signature_counts_not_the_teachers(self) -> None:
        student = Support()
        student.reply.signature = student.reply.signature.with_instructions("Be brief.")
        row = row_of(render_row(student, "reply", call_of({**OUTPUTS, "reasoning": "because"}, {**INPUTS, "hint": "x"}), CHAT))
        assert "Be brief." in row.prompt[0]["content"]
        assert "because" not in row.completion[0]["content"]

    def test_rows_go_by_name_not_by_place(self) -> None:
        call = {"inputs": {"message": "hi"}, "outputs": {"reasoning": "r", "category": "other"}, "overrides": []}
        row = row_of(render_row(Support(), "classify.predict", call, CHAT))
        assert row.predictor == "classify.predict"
        assert "Route a customer message" in row.prompt[0]["content"]

    def test_the_digest_tells_rows_apart(self) -> None:
        one, two = (row_of(render_row(Support(), "reply", call_of({**OUTPUTS, "answer": text}), CHAT)) for text in ("a", "b"))
        assert one.digest == row_of(render_row(Support(), "reply", call_of({**OUTPUTS, "answer": "a"}), CHAT)).digest != two.digest
        assert one.digest.startswith("v1:")

    @pytest.mark.parametrize("kind", ["baml", "chat", "compact", "json", "xml"])
    def test_typed_values_come_back_typed(self, kind: str) -> None:
        order = {"items": [{"name": "pen & <ink>", "qty": 2}], "note": None, "tags": ["a"], "kind": "return"}
        for annotation, value in ((Order, order), (list[Item], order["items"]), (Literal["a", "b"], "b"), (bool, True), (set[str], ["x"])):
            assert isinstance(row_with(annotation, value, kind), Row)


class TestRejected:
    @pytest.mark.parametrize(
        ("result", "reason", "message"),
        [
            (lambda: render_row(Support(), "reply", call_of(overrides=["signature"]), CHAT), "override", "another signature"),
            (lambda: render_row(Support(), "reply", {**call_of(), "discarded": True}, CHAT), "discarded", "threw this answer away"),
            (lambda: render_row(Support(), "reply", call_of(None), CHAT), "unparsable", "could not be read"),
            (lambda: render_row(Support(), "feedback", call_of(), CHAT), "foreign_predictor", "no predictor feedback"),
            (lambda: render_row(Support(), "reply", call_of(inputs={"message": "x"}), CHAT), "missing_input", "`category`"),
            (lambda: render_row(Support(), "reply", call_of({"answer": "x"}), CHAT), "missing_output", "`confidence`"),
            (lambda: render_row(Support(), "reply", call_of({**OUTPUTS, "confidence": "high"}), CHAT), "output_type", "`confidence`"),
            (lambda: row_with(str, "a\n[[ ## y ## ]]\nb"), "not_round_trip", "`y` is read back as 'a'"),
            (lambda: row_with(str, "  padded"), "not_round_trip", "read back as 'padded'"),
            (lambda: row_with(str | None, None), "not_round_trip", "read back as 'None', not None"),
            (lambda: row_with(Level, 2), "not_round_trip", "cannot read the answer back"),
            (lambda: row_with(list[str] | None, None, "xml"), "not_round_trip", "read back as ['None']"),
        ],
    )
    def test_with_a_reason(self, result: Any, reason: str, message: str) -> None:
        rejected = result()
        assert isinstance(rejected, Rejection)
        assert rejected.reason == reason
        assert message in rejected.message

    def test_images_in_the_prompt(self) -> None:
        fields = {"img": (dspy.Image, dspy.InputField()), "y": (str, dspy.OutputField())}
        call = {"inputs": {"img": dspy.Image(url="https://example.org/a.png")}, "outputs": {"y": "red"}, "overrides": []}
        rejected = render_row(dspy.Predict(dspy.Signature(fields, "x")), "self", call, CHAT)
        assert isinstance(rejected, Rejection)
        assert rejected.reason == "not_text"


class TestDemos:
    def student(self) -> Support:
        student = Support()
        student.reply.demos = [dspy.Example(message="half", answer="only"), dspy.Example(**DEMO)]
        return student

    def test_auto_leaves_out_the_incomplete(self) -> None:
        row = row_of(render_row(self.student(), "reply", call_of(), CHAT, "auto"))
        assert [message["role"] for message in row.prompt] == ["system", "user", "assistant", "user"]
        assert all("Not supplied" not in message["content"] for message in row.prompt)

    def test_drop_leaves_out_all(self) -> None:
        row = row_of(render_row(self.student(), "reply", call_of(), CHAT, "drop"))
        assert [message["role"] for message in row.prompt] == ["system", "user"]

    def test_keep_rejects_the_incomplete(self) -> None:
        rejected = render_row(self.student(), "reply", call_of(), CHAT, "keep")
        assert isinstance(rejected, Rejection)
        assert rejected.reason == "incomplete_demo"

    def test_keep_names_the_incomplete_demo(self) -> None:
        assert [dict(demo) for demo in student_demos(self.student().reply)] == [DEMO]
        with pytest.raises(IncompleteDemo, match="lacks a field"):
            student_demos(self.student().reply, "keep")
