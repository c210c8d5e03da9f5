"""Inputs that are more than text, on their way to the LM and into the trace; and traces that labels make."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest

from stillhouse_programs.build import build_program
from stillhouse_programs.labels import LabelTeacher
from stillhouse_programs.spec import parse_spec
from tests.unit.runner.support import ScriptedRelay, Steps, called, prepared, rollout

URL = "https://images.test/cat.png"


def field_of(name: str, role: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "role": role, **({"schema": schema} if schema else {})}


def one(*fields: dict[str, Any]) -> dict[str, Any]:
    return {"predictors": [{"name": "self", "lm": "student", "signature": {"fields": list(fields)}}]}


class TestImages:
    @pytest.mark.parametrize("given", [URL, {"url": URL}])
    def test_json_reaches_the_lm_as_an_image_and_stays_json_in_the_trace(self, given: Any) -> None:
        spec = one(field_of("picture", "input", {"x-dspy-type": "Image"}), field_of("answer", "output"))
        relay = ScriptedRelay()
        trace = rollout(prepared(build_program(parse_spec(spec)), relay), picture=given)
        assert trace["status"] == "ok"
        assert trace["calls"][0]["inputs"] == {"picture": given}
        assert {"type": "image_url", "image_url": {"url": URL}} in relay.bodies[0]["messages"][-1]["content"]

    def test_dspys_own_object_is_kept_as_its_address(self) -> None:
        async def body(self: Any, **_: Any) -> dspy.Prediction:
            result: dspy.Prediction = await self.look.acall(pictures=[dspy.Image(URL)])
            return result

        look = dspy.Predict(
            dspy.Signature({"pictures": (list[dspy.Image], dspy.InputField()), "answer": (str, dspy.OutputField())}, "Look.")
        )
        relay = ScriptedRelay()
        trace = rollout(prepared(Steps(body, look=look), relay), go="on")
        assert trace["calls"][0]["inputs"] == {"pictures": [{"url": URL}]}
        assert {"type": "image_url", "image_url": {"url": URL}} in relay.bodies[0]["messages"][-1]["content"]


TWO: dict[str, Any] = {
    "predictors": [
        {
            "name": name,
            "lm": "student",
            "type": kind,
            "signature": {"fields": [field_of(source, "input"), field_of(target, "output", schema)]},
        }
        for name, kind, source, target, schema in (
            ("rate.predict", "ChainOfThought", "message", "stars", {"type": "integer"}),
            ("reply", "Predict", "summary", "answer", None),
        )
    ],
    "steps": [
        {"id": "c", "predictor": "rate.predict", "args": {"message": {"from": "input.message"}}},
        {"id": "r", "predictor": "reply", "args": {"summary": {"template": ["Stars: ", {"from": "c.stars"}]}}},
    ],
    "outputs": {"text": {"from": "r.answer"}},
}


def taught(**labels: Any) -> dict[str, Any]:
    return asyncio.run(LabelTeacher(parse_spec(TWO)).trace({"message": "m"}, labels))


class TestLabels:
    def test_every_call_is_answered_from_the_row(self) -> None:
        trace = taught(reasoning="Because.", stars=5, text="Thanks!")
        assert (trace["status"], trace["outputs"], called(trace)) == ("ok", {"text": "Thanks!"}, ["rate.predict", "reply"])
        assert [call["inputs"] for call in trace["calls"]] == [{"message": "m"}, {"summary": "Stars: 5"}]
        assert [call["outputs"] for call in trace["calls"]] == [{"reasoning": "Because.", "stars": 5}, {"answer": "Thanks!"}]
        assert [call["raw"] for call in trace["calls"]] == [None, None]
        assert trace["usage"]["calls"] == 0

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ({"stars": 5, "text": "a"}, "the row has no `reasoning`"),
            ({"reasoning": "r", "stars": None, "text": "a"}, "the row has no `stars`"),
            ({"reasoning": "r", "stars": "many", "text": "a"}, "the row has another `stars`: Input should be a valid integer"),
        ],
    )
    def test_a_row_that_lacks_a_label_makes_no_answer(self, labels: dict[str, Any], message: str) -> None:
        trace = taught(**labels)
        assert trace["status"] == "failed"
        assert trace["error"]["message"].startswith(message)

    def test_rows_do_not_mix(self) -> None:
        teacher = LabelTeacher(parse_spec(TWO))
        asyncio.run(teacher.trace({"message": "m"}, {"stars": 1}))
        trace = asyncio.run(teacher.trace({"message": "n"}, {"reply.answer": "b", "reasoning": "r", "rate.predict.stars": 2}))
        assert [call["outputs"] for call in trace["calls"]] == [{"reasoning": "r", "stars": 2}, {"answer": "b"}]
