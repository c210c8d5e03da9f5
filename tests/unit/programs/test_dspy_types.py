"""Fields of dspy's own types: an Image and a History travel as JSON and reach the prompt as themselves."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pytest

from stillhouse_programs import prompts
from stillhouse_programs.build import build_program
from stillhouse_programs.derive import derive
from stillhouse_programs.prove import prompt_hash, prove
from stillhouse_programs.recorder import jsonable
from stillhouse_programs.render import Row, render_row
from stillhouse_programs.spec import SpecError, canonical_json, check_row, parse_spec

URL = "https://images.test/cat.png"
HISTORY = {"messages": [{"question": "Who?", "answer": "Me."}]}


class Look(dspy.Signature):
    """Answer about a picture."""

    question: str = dspy.InputField()
    picture: dspy.Image = dspy.InputField()
    history: dspy.History = dspy.InputField()
    answer: str = dspy.OutputField()


def spec_of(*fields: tuple[str, dict[str, Any]], role: str = "input") -> dict[str, Any]:
    given = [{"name": name, "role": role, "schema": schema} for name, schema in fields]
    return {"predictors": [{"name": "self", "lm": "student", "signature": {"fields": [*given, {"name": "answer", "role": "output"}]}}]}


IMAGE, PAST = {"x-dspy-type": "Image"}, {"x-dspy-type": "History"}


class TestTravelling:
    @pytest.mark.parametrize("kind", ["chat", "json", "xml"])
    def test_json_gives_the_prompt_of_dspys_own_objects(self, kind: str) -> None:
        adapter = {"chat": dspy.ChatAdapter(), "json": dspy.JSONAdapter(), "xml": dspy.XMLAdapter()}[kind]
        objects = {"question": "What?", "picture": dspy.Image(URL), "history": dspy.History(**HISTORY)}
        stock = adapter.format(Look, [], objects)
        rebuilt = build_program(derive(dspy.Predict(Look), objects))
        assert isinstance(rebuilt, dspy.Predict)
        for picture in (URL, {"url": URL}):
            row = {"question": "What?", "picture": picture, "history": HISTORY}
            assert prompts.render(prompts.make_prompt_adapter(kind), rebuilt, None, [], row).messages == stock

    def test_a_derived_program_is_proved(self) -> None:
        program = dspy.Predict(Look)
        sample = {"question": "What?", "picture": dspy.Image(URL), "history": dspy.History(**HISTORY)}
        spec = derive(program, sample)
        assert prove(program, spec, [sample])["chat"] == prompt_hash(
            program, [{"question": "What?", "picture": URL, "history": HISTORY}], "chat"
        )
        assert canonical_json(parse_spec(json.loads(canonical_json(spec)))) == canonical_json(spec)
        assert '"schema":{"x-dspy-type":"Image"}' in canonical_json(spec)

    def test_images_in_lists_and_in_demos(self) -> None:
        demo = {"pictures": [URL], "answer": "cat"}
        spec = spec_of(("pictures", {"type": "array", "items": IMAGE}))
        spec["predictors"][0]["demos"] = [demo]
        program = build_program(parse_spec(spec))
        messages = prompts.render(prompts.make_prompt_adapter("chat"), program, None, program.demos, {"pictures": [URL, URL]}).messages
        shown = [[part["type"] for part in message["content"] if part["type"] == "image_url"] for message in messages[1::2]]
        assert [len(parts) for parts in shown] == [1, 2]

    def test_an_image_is_kept_as_its_address(self) -> None:
        assert jsonable({"seen": [dspy.Image(URL)]}) == {"seen": [{"url": URL}]}


class TestRows:
    @pytest.mark.parametrize("value", [URL, {"url": URL}, "data:image/png;base64,AAAA"])
    def test_images(self, value: Any) -> None:
        assert check_row(parse_spec(spec_of(("picture", IMAGE))), {"picture": value}) == []

    @pytest.mark.parametrize("value", ["cat.png", {"url": "file:///etc/passwd"}, {"url": URL, "download": True}, 7])
    def test_no_images(self, value: Any) -> None:
        """What is no address is no file of the server either, and `download` would make the server fetch it."""
        assert "expected an image" in check_row(parse_spec(spec_of(("picture", IMAGE))), {"picture": value})[0].message

    @pytest.mark.parametrize(("value", "fits"), [(HISTORY, True), ({"messages": []}, True), ([], False), ({"messages": ["hi"]}, False)])
    def test_histories(self, value: Any, fits: bool) -> None:
        assert (check_row(parse_spec(spec_of(("past", PAST))), {"past": value}) == []) is fits

    @pytest.mark.parametrize(
        ("schema", "good", "bad", "message"),
        [
            ({"type": "string", "format": "date"}, "2026-01-02", "2.1.2026", "expected a date such as 2026-01-02"),
            ({"type": "string", "format": "date-time"}, "2026-01-02T03:04:05Z", "noon", "expected a date-time such as"),
            ({"type": "string", "format": "time"}, "03:04:05", "25:00", "expected a time such as 03:04:05"),
            ({"type": "integer"}, 2**63, 2**64, "expected a whole number"),
        ],
    )
    def test_formats(self, schema: dict[str, Any], good: Any, bad: Any, message: str) -> None:
        parsed = parse_spec(spec_of(("when", schema)))
        assert check_row(parsed, {"when": good}) == []
        assert check_row(parsed, {"when": bad})[0].message.startswith(message)


class TestPrograms:
    def test_an_image_is_no_answer(self) -> None:
        with pytest.raises(SpecError, match=r"a dspy\.Image cannot be an answer"):
            parse_spec(spec_of(("picture", IMAGE), role="output"))

    def test_a_conversation_becomes_a_row_with_loss_on_its_last_answer_alone(self) -> None:
        spec = spec_of(("question", {"type": "string"}), ("past", PAST))
        program = build_program(parse_spec(spec))
        call = {"inputs": {"question": "And now?", "past": HISTORY}, "outputs": {"answer": "You."}, "overrides": []}
        row = render_row(program, "self", call, prompts.make_prompt_adapter("chat"))
        assert isinstance(row, Row)
        assert [message["role"] for message in row.prompt] == ["system", "user", "assistant", "user"]
        assert "Me." in row.prompt[2]["content"]
        assert "You." in row.completion[0]["content"]
