"""Prompts: the same bytes as dspy's, and the hash that stands for them."""

import json
import subprocess
import sys
import textwrap
from typing import Any

import dspy
import pydantic
import pytest
from dspy.adapters.baml_adapter import BAMLAdapter

from stillhouse_programs import prompts
from stillhouse_programs.build import build_program
from stillhouse_programs.compact import CompactAdapter
from stillhouse_programs.prove import ScriptedAdapter, prompt_hash, prove
from stillhouse_programs.spec import SpecError, parse_spec
from tests.unit.programs.samples import ROUTER, SAMPLES, SUPPORT, Item, Reply, Route, Support, copy_of

PLAIN = {
    "baml": BAMLAdapter,
    "chat": dspy.ChatAdapter,
    "compact": CompactAdapter,
    "json": dspy.JSONAdapter,
    "xml": dspy.XMLAdapter,
}
KINDS = list(PLAIN)


class TestSameBytes:
    @pytest.mark.parametrize("kind", KINDS)
    def test_as_dspy_renders_them(self, kind: str) -> None:
        ours, theirs = prompts.make_prompt_adapter(kind), PLAIN[kind]()
        inputs = {"message": "[[ ## x ## ]] <b>é", "category": "a\nb"}
        demos = [dspy.Example(message="m", category="c", answer="a", confidence=0.5), dspy.Example(message="m", answer="a")]
        for _ in range(2):
            assert ours.format(Reply, demos, inputs) == theirs.format(Reply, demos, inputs)

    @pytest.mark.parametrize("kind", KINDS)
    def test_typed_and_missing_inputs_too(self, kind: str) -> None:
        fields = {"item": (Item, dspy.InputField()), "names": (str, dspy.InputField()), "y": (list[Item], dspy.OutputField())}
        signature = dspy.Signature(fields, "Do it.")
        ours, theirs = prompts.make_prompt_adapter(kind), PLAIN[kind]()
        for inputs in ({"item": Item(name="pen"), "names": ["a", "b"]}, {"names": "x"}, {}):
            assert ours.format(signature, [], inputs) == theirs.format(signature, [], inputs)

    @pytest.mark.parametrize("annotation", [Item, Item | None])
    def test_baml_writes_a_stored_object_as_the_object_that_it_was(self, annotation: Any) -> None:
        signature = dspy.Signature({"item": (annotation, dspy.InputField()), "y": (str, dspy.OutputField())}, "Do it.")
        item, ours = Item(name="pen", qty=2), prompts.make_prompt_adapter("baml")
        live = BAMLAdapter().format(signature, [], {"item": item})
        assert ours.format(signature, [], {"item": item.model_dump()}) == ours.format(signature, [], {"item": item}) == live
        assert ours.format(signature, [], {"item": {"no": "item"}}) == BAMLAdapter().format(signature, [], {"item": {"no": "item"}})

    def test_a_signature_changed_in_place_is_rendered_anew(self) -> None:
        ours, signature = prompts.make_prompt_adapter("chat"), dspy.Signature("message -> category", "First.")
        seen = [ours.format(signature, [], SAMPLES[0])]
        signature.instructions = "Second."
        seen.append(ours.format(signature, [], SAMPLES[0]))
        assert seen[1] == dspy.ChatAdapter().format(signature, [], SAMPLES[0]) != seen[0]
        signature.fields["category"].json_schema_extra["desc"] = "the new team"
        seen.append(ours.format(signature, [], SAMPLES[0]))
        assert seen[2] == dspy.ChatAdapter().format(signature, [], SAMPLES[0]) != seen[1]

    def test_a_call_renders_what_render_says(self) -> None:
        predictor, adapter = dspy.Predict(Route), prompts.make_prompt_adapter("chat")
        scripted = ScriptedAdapter(adapter, 0)
        with dspy.context(lm=prompts.stand_in_lm(), adapter=scripted):
            predictor(**SAMPLES[1])
        rendered = prompts.render(adapter, predictor, None, [], SAMPLES[1])
        assert json.loads(scripted.sent[0])[0] == rendered.messages
        assert rendered.messages == dspy.ChatAdapter().format(Route, [], SAMPLES[1])

    def test_defaults_are_filled_in(self) -> None:
        signature = dspy.Signature(
            {"q": (str, dspy.InputField()), "lang": (str, dspy.InputField(default="en")), "a": (str, dspy.OutputField())}, "x"
        )
        rendered = prompts.render(prompts.make_prompt_adapter(), dspy.Predict(signature), None, [], {"q": "hi"})
        assert "[[ ## lang ## ]]\nen" in rendered.messages[-1]["content"]


class TestPromptAdapters:
    def test_the_fallback_to_json_is_off(self) -> None:
        assert prompts.make_prompt_adapter("chat").use_json_adapter_fallback is False
        assert prompts.make_prompt_adapter("xml").use_json_adapter_fallback is False

    @pytest.mark.parametrize("kind", KINDS)
    def test_described_by_their_spec(self, kind: str) -> None:
        assert prompts.describe_prompt_adapter(PLAIN[kind]()).type == kind
        assert prompts.describe_prompt_adapter(prompts.make_prompt_adapter(kind)).type == kind

    def test_others_have_no_spec(self) -> None:
        with pytest.raises(SpecError, match="a second LM reads the answers"):
            prompts.describe_prompt_adapter(dspy.TwoStepAdapter(prompts.stand_in_lm()))

    def test_what_it_has_no_form_for(self) -> None:
        nested = pydantic.create_model("Pair", first=(Item, ...), second=(Item, ...))
        pair = dspy.Signature({"q": (str, dspy.InputField()), "a": (nested, dspy.OutputField())})
        prompts.render(prompts.make_prompt_adapter("json"), dspy.Predict(pair), None, [], {"q": "x"})
        with pytest.raises(prompts.CannotRender, match=r"BAMLAdapter cannot write this prompt: .* recursive"):
            prompts.render(prompts.make_prompt_adapter("baml"), dspy.Predict(pair), None, [], {"q": "x"})

    def test_unparsable_answers(self) -> None:
        adapter = prompts.make_prompt_adapter("chat")
        for answer in ("", "billing", "[[ ## category ## ]]\nsales\n\n[[ ## completed ## ]]"):
            with pytest.raises(prompts.Unparsable):
                prompts.parse(adapter, Route, answer)


class TestProof:
    @pytest.mark.parametrize(("program", "spec"), [(lambda: dspy.Predict(Route), ROUTER), (Support, SUPPORT)], ids=["router", "support"])
    def test_both_worked_specs_are_byte_identical_under_every_prompt_adapter(self, program: Any, spec: dict[str, Any]) -> None:
        hashes = prove(program(), parse_spec(spec), SAMPLES)
        assert sorted(hashes) == KINDS
        for kind, value in hashes.items():
            assert prompt_hash(program(), SAMPLES, PLAIN[kind]()) == value

    def test_a_byte_changes_the_hash(self) -> None:
        before = prompt_hash(build_program(parse_spec(ROUTER)), SAMPLES)
        spec = copy_of(ROUTER)
        spec["predictors"][0]["signature"]["fields"][1]["desc"] = "the team."
        assert prompt_hash(build_program(parse_spec(spec)), SAMPLES) != before

    @pytest.mark.parametrize("change", [{"config": {"temperature": 0.3}}, {"demos": []}])
    def test_options_and_demos_count(self, change: dict[str, Any]) -> None:
        spec = copy_of(SUPPORT)
        spec["predictors"][1] |= change
        assert prompt_hash(build_program(parse_spec(spec)), SAMPLES) != prompt_hash(Support(), SAMPLES)

    def test_is_the_same_in_every_process(self) -> None:
        code = """
            from stillhouse_programs.prove import prompt_hash
            from stillhouse_programs.build import build_program
            from stillhouse_programs.spec import parse_spec
            fields = [{"name": "q", "role": "input"},
                      {"name": "a", "role": "output", "schema": {"type": "array", "uniqueItems": True, "items": {"type": "string"}}}]
            spec = {"predictors": [{"name": "self", "lm": "s", "signature": {"fields": fields}}]}
            print(prompt_hash(build_program(parse_spec(spec)), [{"q": "x"}], "json"))
        """
        seen = {
            subprocess.run(
                [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
                env={"PYTHONHASHSEED": seed, "HOME": "/nonexistent"},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in ("1", "2")
        }
        assert len(seen) == 1
        assert seen.pop().startswith("v1:")

    def test_an_error_of_the_program_is_part_of_the_proof(self) -> None:
        class Broken(Support):
            def forward(self, message: str) -> dspy.Prediction:
                raise ZeroDivisionError("always")

        assert prompt_hash(Broken(), SAMPLES) == prompt_hash(Broken(), SAMPLES) != prompt_hash(Support(), SAMPLES)
