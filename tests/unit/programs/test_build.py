"""Programs built from specs: names, wiring, defaults, state that travels both ways."""

import asyncio
import json
from typing import Any

import dspy
import pytest

from stillhouse_programs.artifact import program_state
from stillhouse_programs.build import build_program
from stillhouse_programs.prompts import make_prompt_adapter, stand_in_lm
from stillhouse_programs.prove import ScriptedAdapter, prompt_hash
from stillhouse_programs.spec import SpecError, parse_spec
from tests.unit.programs.samples import ROUTER, SAMPLES, SUPPORT, Support, copy_of


def run(program: dspy.Module, **inputs: Any) -> tuple[dspy.Prediction, ScriptedAdapter]:
    """Run a program on scripted answers."""
    scripted = ScriptedAdapter(make_prompt_adapter("chat"), 1)
    with dspy.context(lm=stand_in_lm(), adapter=scripted):
        return program(**inputs), scripted


def prompt(scripted: ScriptedAdapter, call: int) -> str:
    """The user message of a call; prompts and answers take turns."""
    content: str = json.loads(scripted.sent[2 * call])[0][-1]["content"]
    return content


def step(at: int, predictor: str, **args: str) -> dict[str, Any]:
    return {"id": f"s{at}", "predictor": predictor, "args": {name: {"from": source} for name, source in args.items()}}


def text_predictor(name: str, inputs: str, output: str) -> dict[str, Any]:
    fields = [{"name": each, "role": "input"} for each in inputs.split()] + [{"name": output, "role": "output"}]
    return {"name": name, "lm": "student", "signature": {"fields": fields}}


class TestNames:
    def test_one_predictor_is_a_predict(self) -> None:
        program = build_program(parse_spec(ROUTER))
        assert type(program) is dspy.Predict
        assert [name for name, _ in program.named_predictors()] == ["self"]

    def test_names_of_lists_and_parts(self) -> None:
        names = ["hops[0].predict", "hops[1].predict", "final"]
        predictors = [text_predictor(name, "q", "a") for name in names]
        steps = [step(at, name, q="input.q") for at, name in enumerate(names)]
        program = build_program(parse_spec({"predictors": predictors, "steps": steps, "outputs": {"a": {"from": "s2.a"}}}))
        assert [name for name, _ in program.named_predictors()] == names

    def test_every_field_of_the_support_spec_arrives(self) -> None:
        program = build_program(parse_spec(SUPPORT))
        reply = dict(program.named_predictors())["reply"]
        assert reply.config == {"temperature": 0.2}
        assert reply.demos[0].category == "billing"
        assert reply.signature.fields["confidence"].annotation is float


class TestRun:
    def test_forward_follows_the_wiring(self) -> None:
        result, scripted = run(build_program(parse_spec(SUPPORT)), message="I was charged twice")
        assert set(result.keys()) == {"category", "answer", "confidence"}
        assert f"[[ ## category ## ]]\n{result.category}" in prompt(scripted, 1)

    def test_aforward_gives_the_same(self) -> None:
        program = build_program(parse_spec(SUPPORT))
        scripted = ScriptedAdapter(make_prompt_adapter("chat"), 1)

        async def call() -> dspy.Prediction:
            with dspy.context(lm=stand_in_lm(), adapter=scripted):
                return await program.acall(message="I was charged twice")

        result = asyncio.run(call())
        again, other = run(program, message="I was charged twice")
        assert result.toDict() == again.toDict()
        assert scripted.sent == other.sent

    def test_templates_constants_and_nested_values(self) -> None:
        order = {
            "name": "order",
            "role": "output",
            "schema": {"type": "object", "properties": {"note": {"type": "string"}}, "required": ["note"]},
        }
        spec = {
            "predictors": [
                {"name": "read", "lm": "s", "signature": {"fields": [{"name": "text", "role": "input"}, order]}},
                text_predictor("write", "context mood", "reply"),
            ],
            "steps": [
                step(0, "read", text="input.text"),
                {
                    "id": "s1",
                    "predictor": "write",
                    "args": {"context": {"template": ["Note: ", {"from": "s0.order.note"}, "."]}, "mood": {"value": "calm"}},
                },
            ],
            "outputs": {"reply": {"from": "s1.reply"}, "source": {"value": "v2"}, "note": {"from": "s0.order.note"}},
        }
        result, scripted = run(build_program(parse_spec(spec)), text="hello")
        assert f"[[ ## context ## ]]\nNote: {result.note}.\n\n[[ ## mood ## ]]\ncalm" in prompt(scripted, 1)
        assert result.source == "v2"

    def test_a_missing_input_is_a_type_error(self) -> None:
        with pytest.raises(TypeError, match="missing required input: 'message'"):
            run(build_program(parse_spec(SUPPORT)))

    def test_an_input_with_a_default_may_be_left_out(self) -> None:
        spec = copy_of(SUPPORT)
        fields = spec["predictors"][1]["signature"]["fields"]
        fields.insert(0, {"name": "tone", "role": "input", "default": "friendly"})
        spec["steps"][1]["args"]["tone"] = {"from": "input.tone"}
        _, scripted = run(build_program(parse_spec(spec)), message="hi")
        assert "[[ ## tone ## ]]\nfriendly" in prompt(scripted, 1)
        _, scripted = run(build_program(parse_spec(spec)), message="hi", tone="short")
        assert "[[ ## tone ## ]]\nshort" in prompt(scripted, 1)


class TestClient:
    """A program whose code its caller has: its predictors go by the names that dspy gives them there."""

    def test_predictors_in_dicts_and_lists_and_beside_one_that_was_compiled(self) -> None:
        names = ["by['a.b']", "by['x'].predict", "steps[1]", "plain"]
        spec = {
            "predictors": [text_predictor(name, "q", "a") for name in names],
            "client": {"inputs": [{"name": "q"}], "source": "0" * 64},
        }
        program = build_program(parse_spec(spec))
        assert [name for name, _ in program.deepcopy().named_predictors()] == names
        assert list(program_state(program)) == [*names, "metadata"]
        with pytest.raises(SpecError, match=r"`by\['a.b'\]`: only a program that runs by its own code has predictors in a dict"):
            parse_spec({"predictors": spec["predictors"]})


class TestState:
    def test_travels_from_the_class_to_the_rebuilt_program_and_back(self) -> None:
        mine, rebuilt = Support(), build_program(parse_spec(SUPPORT))
        mine.classify.predict.demos = [dspy.Example(message="m", reasoning="r", category="other")]
        mine.classify.predict.signature = mine.classify.predict.signature.with_instructions("Sort it.")
        rebuilt.load_state(json.loads(json.dumps(mine.dump_state())))
        assert prompt_hash(rebuilt, SAMPLES) == prompt_hash(mine, SAMPLES) != prompt_hash(Support(), SAMPLES)
        other = Support()
        other.load_state(json.loads(json.dumps(rebuilt.dump_state())))
        assert prompt_hash(other, SAMPLES) == prompt_hash(mine, SAMPLES)


def test_nothing_of_a_spec_is_evaluated(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "side_effect.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = copy_of(ROUTER)
    spec["predictors"][0]["signature"]["instructions"] = "q -> a: side_effect.T"
    spec["predictors"][0]["signature"]["fields"][0]["desc"] = "side_effect.T"
    assert build_program(parse_spec(spec)).signature.instructions == "q -> a: side_effect.T"


def test_a_type_that_cannot_be_built_names_its_field() -> None:
    spec = copy_of(ROUTER)
    spec["predictors"][0]["signature"]["fields"][1]["schema"] = {"type": "object", "properties": {"a": {"type": "string"}}}
    with pytest.raises(SpecError) as caught:
        build_program(parse_spec(spec))
    assert caught.value.param == "predictors[0].signature.fields[1].schema"
