"""The spec: what is taken, what is refused and with which words, its canonical text, and the rows it takes."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from stillhouse_programs import spec_checks
from stillhouse_programs.spec import (
    ProgramSpec,
    SpecError,
    canonical_json,
    cast_cell,
    check_metric,
    check_row,
    expand,
    input_names,
    labels,
    lm_roles,
    output_names,
    parse_prompt_adapter,
    parse_spec,
    predictor_names,
    required_input_names,
    row_reader,
    with_demos,
)
from tests.unit.programs.samples import DEMO, ROUTER, SUPPORT, copy_of


def fault_of(change: Callable[[dict[str, Any]], Any], spec: dict[str, Any] = SUPPORT) -> SpecError:
    """What is said about a spec after a change."""
    changed = copy_of(spec)
    change(changed)
    with pytest.raises(SpecError) as caught:
        parse_spec(changed)
    return caught.value


def field_of(schema: Any, **more: Any) -> dict[str, Any]:
    """A spec of one predictor whose output has this schema."""
    output = {"name": "y", "role": "output", "schema": schema, **more}
    return {"predictors": [{"name": "self", "lm": "s", "signature": {"fields": [{"name": "x", "role": "input"}, output]}}]}


def test_needs_no_dspy() -> None:
    code = "import sys, stillhouse_programs.spec; sys.exit('dspy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_has_a_json_schema() -> None:
    schema = ProgramSpec.model_json_schema()
    assert schema["properties"]["predictors"]["type"] == "array"
    assert "schema" in schema["$defs"]["FieldSpec"]["properties"]


class TestParse:
    def test_takes_both_worked_specs(self) -> None:
        assert predictor_names(parse_spec(ROUTER)) == ["self"]
        support = parse_spec(SUPPORT)
        assert predictor_names(support) == ["classify.predict", "reply"]
        assert input_names(support) == ["message"]
        assert output_names(support) == ["category", "answer", "confidence"]
        assert lm_roles(support) == ["student"]

    @pytest.mark.parametrize(
        ("change", "param", "message"),
        [
            (lambda s: s["predictors"][1].pop("lm"), "predictors[1].lm", "predictor reply has no LM"),
            (lambda s: s["predictors"][1].update(demoss=[]), "predictors[1].demoss", "unknown key `demoss`; did you mean `demos`?"),
            (lambda s: s["predictors"][1]["config"].update(api_base="http://x"), "predictors[1].config.api_base", "unknown key"),
            (lambda s: s["predictors"][1]["config"].update(temperature=2.1), "predictors[1].config.temperature", "less than or equal to 2"),
            (lambda s: s["predictors"][1].update(name="a b"), "predictors[1].name", "does not match the pattern"),
            (lambda s: s["predictors"][1].update(name="save"), "predictors[1].name", "a name of dspy.Module itself"),
            (lambda s: s["predictors"][1].update(name="classify"), "predictors[1].name", "cannot contain another predictor"),
            (lambda s: s["predictors"][1].update(name="classify.predict"), "predictors[1].name", "stands there twice"),
            (lambda s: s["predictors"][1].update(name="hops[1]"), "predictors[1].name", "comes before `hops[0]`"),
            (lambda s: s["predictors"][1].update(name="self"), "predictors[1].name", "the one predictor of a program"),
            (lambda s: s["predictors"][1]["demos"].append({"anser": "x"}), "predictors[1].demos[1].anser", "did you mean `answer`?"),
            (
                lambda s: s["steps"][1].update(predictor="repli"),
                "steps[1].predictor",
                "there is no predictor `repli`; did you mean `reply`?",
            ),
            (lambda s: s["steps"][1].pop("predictor"), "steps[1].predictor", "required key is missing"),
            (lambda s: s["steps"][1].update(id="input"), "steps[1].id", "stands for the program's inputs"),
            (lambda s: s["steps"][1]["args"].pop("category"), "steps[1].args", "predictor reply needs `category`"),
            (lambda s: s["steps"][1]["args"].update(categry={"value": 1}), "steps[1].args.categry", "did you mean `category`?"),
            (lambda s: s["steps"][1]["args"].update(category={"from": "d.x"}), "steps[1].args.category", "there is no step `d`"),
            (lambda s: s["steps"][0]["args"].update(message={"from": "r.answer"}), "steps[0].args.message", "step r has not run yet"),
            (lambda s: s["steps"][1]["args"].update(category={"from": "c.team"}), "steps[1].args.category", "has no output field `team`"),
            (lambda s: s["steps"][1]["args"].update(category={"from": "c.category.x"}), "steps[1].args.category", "has no `x`"),
            (lambda s: s["steps"][1]["args"].update(category={"form": "c.category"}), "steps[1].args.category", 'expected one of {"from"'),
            (
                lambda s: s["steps"][1]["args"].update(category={"template": ["a", 3]}),
                "steps[1].args.category.template[1]",
                "expected text",
            ),
            (lambda s: s["outputs"].update(answer={"from": "r.anwser"}), "outputs.answer", "did you mean `answer`?"),
            (lambda s: s.pop("outputs"), "outputs", "`outputs` is missing"),
            (lambda s: (s.pop("outputs"), s.pop("steps")), "steps", "required with more than one predictor"),
            (lambda s: s.update(spec_version=2), "spec_version", "expected one of 1"),
            (lambda s: s.update(steps=[s["steps"][0]], outputs={"c": {"from": "c.category"}}), "predictors[1]", "is never called"),
        ],
    )
    def test_refuses_with_path_and_reason(self, change: Callable[[dict[str, Any]], Any], param: str, message: str) -> None:
        fault = fault_of(change)
        assert fault.param == param
        assert message in fault.message

    def test_refuses_what_is_no_object(self) -> None:
        with pytest.raises(SpecError, match="expected an object"):
            parse_spec([SUPPORT])

    @pytest.mark.parametrize("name", ["signature", "demos", "lm", "class"])
    def test_refuses_input_names_that_dspy_takes_for_itself(self, name: str) -> None:
        fault = fault_of(lambda s: s["predictors"][0]["signature"]["fields"][0].update(name=name), ROUTER)
        assert "is a reserved word" in fault.message

    def test_the_names_of_dspy_modules_are_all_reserved(self) -> None:
        own = {name for name in dir(dspy.Module()) if not name.startswith("__")}
        assert own <= spec_checks.RESERVED_ATTRIBUTES

    @pytest.mark.parametrize(
        ("schema", "path", "message"),
        [
            ({"type": "str"}, ".type", "`type` must be one of string, integer"),
            ({"type": "string", "minlength": 3}, "", "schema keyword `minlength`"),
            ({"type": "number", "minimum": 0}, "", "at a property of an object only"),
            ({"x-dspy-type": "Code"}, "", "dspy.Code cannot travel as a spec (these can: Image, History)"),
            ({"x-dspy-type": "Image", "type": "object"}, "", "stands alone"),
            ({"items": {"x-dspy-type": "History"}, "type": "array"}, ".items", "whole field"),
            ({"$ref": "#/$defs/A"}, ".$ref", "not defined"),
            ({"$defs": {"A": {"items": {"$ref": "#/$defs/A"}, "type": "array"}}, "$ref": "#/$defs/A"}, ".$defs.A.items", "contains itself"),
            ({"type": "object", "properties": {"__base__": {}}}, ".properties", "letters, digits and underscores"),
            ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, ".required", "`b` is not in `properties`"),
            ({"enum": []}, ".enum", "that is not empty"),
            ({"enum": ["a"], "x-enum-names": ["A", "B"]}, ".x-enum-names", "one name for each value"),
            ({"type": "string", "format": "ipv4"}, ".format", "`format` must be one of date"),
            ({"type": "array", "items": [1]}, ".items", "`items` must be a schema"),
            ({"type": "object", "properties": {"a": {"type": "string", "minimum": 1}}}, ".properties.a.minimum", "does not go with"),
        ],
    )
    def test_refuses_schemas_that_no_type_stands_for(self, schema: Any, path: str, message: str) -> None:
        with pytest.raises(SpecError) as caught:
            parse_spec(field_of(schema))
        assert caught.value.param == f"predictors[0].signature.fields[1].schema{path}"
        assert message in caught.value.message

    def test_a_default_must_fit(self) -> None:
        spec = field_of({"type": "string"})
        spec["predictors"][0]["signature"]["fields"][0] |= {"schema": {"type": "integer"}, "default": "five"}
        with pytest.raises(SpecError, match="the default does not fit: expected a whole number"):
            parse_spec(spec)


class TestExpand:
    def test_fills_the_wiring_of_a_single_predictor(self) -> None:
        full = expand(parse_spec(ROUTER))
        assert full.steps is not None
        assert [step.predictor for step in full.steps] == ["self"]
        assert output_names(full) == ["category"]

    def test_chain_of_thought_is_a_reasoning_field(self) -> None:
        first = expand(parse_spec(SUPPORT)).predictors[0]
        assert first.type == "Predict"
        assert [field.name for field in first.signature.fields] == ["message", "reasoning", "category"]

    def test_chain_of_thought_with_a_reasoning_of_its_own_is_refused(self) -> None:
        fault = fault_of(lambda s: s["predictors"][0]["signature"]["fields"].append({"name": "reasoning", "role": "output"}))
        assert "adds `reasoning` itself" in fault.message

    def test_twice_is_once(self) -> None:
        once = expand(parse_spec(SUPPORT))
        assert expand(once) == once

    def test_instructions_are_those_of_dspy(self) -> None:
        spec = field_of({"type": "string"})
        assert expand(parse_spec(spec)).predictors[0].signature.instructions == dspy.Signature("x -> y").instructions


class TestCanonicalJson:
    def test_is_stable_over_a_round_trip(self) -> None:
        text = canonical_json(parse_spec(SUPPORT))
        assert canonical_json(parse_spec(json.loads(text))) == text

    def test_short_and_long_form_are_one_text(self) -> None:
        assert canonical_json(expand(parse_spec(ROUTER))) == canonical_json(parse_spec(ROUTER))

    def test_keeps_the_order_of_users_keys(self) -> None:
        demo = {"x": "1", "y": {"zeta": 1, "b": 2}}
        spec = field_of(
            {"type": "object", "properties": {"zeta": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["zeta", "b"]}
        )
        spec["predictors"][0]["demos"] = [demo]
        text = canonical_json(parse_spec(spec))
        assert '"zeta":1,"b":2' in text
        assert text.index('"zeta":{') < text.index('"b":{')

    def test_the_order_of_schema_keywords_does_not_matter(self) -> None:
        one, two = field_of({"type": "string", "enum": ["a"]}), field_of({"enum": ["a"], "type": "string"})
        assert canonical_json(parse_spec(one)) == canonical_json(parse_spec(two))

    def test_ids_of_steps_do_not_matter(self) -> None:
        one, two = copy_of(SUPPORT), copy_of(SUPPORT)
        one["steps"][1]["args"]["message"] = {"template": ["a ", {"from": "c.category"}, {"from": "input.c"}]}
        two["steps"][1]["args"]["message"] = {"template": ["a ", {"from": "s2.category"}, {"from": "input.c"}]}
        two["steps"][0]["id"], two["steps"][1]["id"] = "s2", "s1"
        two["steps"][1]["args"]["category"] = {"from": "s2.category"}
        two["outputs"] = {
            name: {"from": {"c": "s2", "r": "s1"}[path["from"][0]] + path["from"][1:]} for name, path in one["outputs"].items()
        }
        assert canonical_json(parse_spec(one)) == canonical_json(parse_spec(two))
        body = json.loads(canonical_json(parse_spec(two)))
        assert [step["id"] for step in body["steps"]] == ["s1", "s2"]
        assert body["steps"][1]["args"]["message"] == {"template": ["a ", {"from": "s1.category"}, {"from": "input.c"}]}
        assert body["outputs"]["answer"] == {"from": "s2.answer"}

    def test_longest_reference_stays_one_when_its_step_is_numbered(self) -> None:
        spec, name = copy_of(SUPPORT), "x" * 400
        nested = {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}
        spec["predictors"][0]["signature"]["fields"][1]["schema"] = nested
        spec["steps"] = [*({**spec["steps"][0], "id": f"c{number}"} for number in range(10)), *spec["steps"]]
        spec["steps"][11]["args"]["category"] = {"from": f"c.category.{name}"}
        spec["outputs"] = {"answer": {"from": "r.answer"}}
        text = canonical_json(parse_spec(spec))
        assert f'"from":"s11.category.{name}"' in text
        assert canonical_json(parse_spec(json.loads(text))) == text

    def test_leaves_out_defaults_and_the_prompt_hash(self) -> None:
        text = canonical_json(parse_spec({**ROUTER, "prompt_hash": "v1:x"}))
        assert "prompt_hash" not in text
        assert "demos" not in text

    def test_a_null_default_is_not_left_out(self) -> None:
        spec = field_of({"type": "string"})
        spec["predictors"][0]["signature"]["fields"][0]["default"] = None
        assert '"default":null' in canonical_json(parse_spec(spec))


class TestRows:
    def test_a_good_row(self) -> None:
        assert check_row(parse_spec(SUPPORT), {"message": "hi", "category": "billing", "note": 3}) == []

    def test_names_the_fault_of_each_column(self) -> None:
        faults = {fault.field: fault.message for fault in check_row(parse_spec(SUPPORT), {"category": "invoice", "confidence": "high"})}
        assert faults == {
            "message": "required input is missing",
            "category": "expected one of billing, technical, account, other",
            "confidence": "expected a number",
        }

    def test_labels_may_be_null_and_inputs_may_not(self) -> None:
        faults = check_row(parse_spec(SUPPORT), {"message": None, "category": None})
        assert [(fault.field, fault.message) for fault in faults] == [("message", "expected text")]

    def test_says_where_in_a_list_of_objects(self) -> None:
        schema = {"type": "array", "items": {"type": "object", "properties": {"qty": {"type": "integer"}}, "required": ["qty"]}}
        faults = check_row(parse_spec(field_of(schema)), {"x": "a", "y": [{"qty": 1}, {"qty": "two"}]})
        assert faults[0].message == "item 2: `qty`: expected a whole number"

    def test_an_input_with_a_default_may_be_missing(self) -> None:
        spec = field_of({"type": "string"})
        spec["predictors"][0]["signature"]["fields"].insert(1, {"name": "lang", "role": "input", "default": "en"})
        parsed = parse_spec(spec)
        assert required_input_names(parsed) == ["x"]
        assert check_row(parsed, {"x": "a"}) == []

    def test_cells_are_read_by_type_and_not_by_look(self) -> None:
        read = row_reader(parse_spec(SUPPORT), as_text=True)
        row = read({"message": "007", "category": "billing", "confidence": "0.5", "extra": "1"})
        assert row == {"message": "007", "category": "billing", "confidence": 0.5, "extra": "1"}
        assert read({"message": "", "confidence": " "}) == {"message": ""}

    @pytest.mark.parametrize(
        ("cell", "schema", "value"),
        [
            ("007", {"type": "string"}, "007"),
            ("007", {"type": "integer"}, 7),
            ("+1.50", {"type": "number"}, 1.5),
            ("TRUE", {"type": "boolean"}, True),
            ("1", {"type": "boolean"}, "1"),
            ("1.5", {"type": "integer"}, "1.5"),
            ("2", {"enum": [1, 2]}, 2),
            ("2", {"enum": ["1", "2"]}, "2"),
            ("", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
            ("[1, 2]", {"type": "array", "items": {"type": "integer"}}, [1, 2]),
            ('{"zeta": 1, "b": 2}', {"type": "object"}, {"zeta": 1, "b": 2}),
            ("2026-01-02", {"type": "string", "format": "date"}, "2026-01-02"),
            ("[" * 5000, {"type": "array"}, "[" * 5000),
        ],
    )
    def test_cells(self, cell: str, schema: dict[str, Any], value: Any) -> None:
        assert cast_cell(cell, schema) == value

    def test_a_table_leaves_empty_cells_out_where_the_type_has_no_null(self) -> None:
        optional = field_of({"anyOf": [{"type": "integer"}, {"type": "null"}]})
        assert row_reader(parse_spec(SUPPORT), as_text=False)({"message": "m", "confidence": None}) == {"message": "m"}
        assert row_reader(parse_spec(optional), as_text=False)({"y": None, "x": "a"}) == {"y": None, "x": "a"}


class TestLabels:
    def test_what_a_program_returns_is_named_as_it_returns_it(self) -> None:
        found = {label.field: label.columns for label in labels(parse_spec(SUPPORT))}
        assert found["answer"] == ("answer", "reply.answer")
        assert found["reasoning"] == ("reasoning", "classify.predict.reasoning")

    def test_a_name_that_several_steps_have_is_told_apart_by_its_predictor(self) -> None:
        spec = copy_of(SUPPORT)
        spec["predictors"][1]["type"] = "ChainOfThought"
        found = [label.columns for label in labels(parse_spec(spec)) if label.field == "reasoning"]
        assert found == [("classify.predict.reasoning",), ("reply.reasoning",)]

    def test_a_predictor_that_is_called_twice_is_told_apart_by_its_steps(self) -> None:
        spec = copy_of(SUPPORT)
        spec["steps"].append({**spec["steps"][1], "id": "again"})
        found = [label.columns for label in labels(parse_spec(spec)) if label.field == "answer"]
        assert found == [("answer", "r.answer"), ("again.answer",)]

    def test_an_input_is_no_label(self) -> None:
        spec = copy_of(SUPPORT)
        spec["outputs"]["message"] = spec["outputs"].pop("answer")
        found = next(label.columns for label in labels(parse_spec(spec)) if label.field == "answer")
        assert found == ("answer", "reply.answer")


class TestDemos:
    def test_modes(self) -> None:
        spec = copy_of(SUPPORT)
        spec["predictors"][1]["demos"].append({"message": "no answer"})
        full = expand(parse_spec(spec))
        assert with_demos(full, "auto").predictors[1].demos == [DEMO]
        assert with_demos(full).predictors[1].demos == [DEMO]
        assert with_demos(full, "drop").predictors[1].demos == []
        with pytest.raises(SpecError, match="incomplete demo") as caught:
            with_demos(full, "keep")
        assert caught.value.param == "predictors[1].demos[1]"


class TestPromptAdapter:
    def test_default_name_and_object(self) -> None:
        assert parse_prompt_adapter(None).type == "chat"
        assert parse_prompt_adapter("xml").type == "xml"
        assert parse_prompt_adapter({"type": "json"}).type == "json"

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("two_step", "a second LM reads the answers, so no row can say what the student is to write; use one of chat, json, xml, baml"),
            ("MyAdapter", "no rows can be rendered for the prompt adapter MyAdapter; use one of chat, json, xml, baml"),
            ("jason", "did you mean `json`?"),
            (3, "expected one of 'chat', 'json', 'xml', 'baml' or 'compact'"),
        ],
    )
    def test_unknown(self, kind: Any, message: str) -> None:
        with pytest.raises(SpecError) as caught:
            parse_prompt_adapter({"type": kind})
        assert caught.value.param == "prompt_adapter.type"
        assert message in caught.value.message


def metric_fault(metric: Any) -> str | None:
    """What `check_metric` says against a metric of the worked program."""
    try:
        check_metric(metric, parse_spec(SUPPORT))
    except SpecError as error:
        return error.message
    return None


class TestMetric:
    @pytest.mark.parametrize(
        "metric", ["exact_match", {"type": "f1", "field": "answer"}, {"type": "field_equals", "field": "category", "strip": True}]
    )
    def test_good_ones(self, metric: Any) -> None:
        assert metric_fault(metric) is None

    @pytest.mark.parametrize(
        ("metric", "param", "message"),
        [
            ("exactmatch", "metric.type", "did you mean `exact_match`?"),
            (7, "metric", "expected a name"),
            ({"type": "f1"}, "metric.field", "required key is missing"),
            ({"type": "f1", "field": "answr"}, "metric.field", "did you mean `answer`?"),
            ({"type": "exact_match", "fields": ["category", "x"]}, "metric.fields[1]", "no output `x`"),
            ({"type": "field_equals", "field": "answer", "ignorecase": True}, "metric.ignorecase", "did you mean `ignore_case`?"),
        ],
    )
    def test_bad_ones(self, metric: Any, param: str, message: str) -> None:
        with pytest.raises(SpecError) as caught:
            check_metric(metric, parse_spec(SUPPORT))
        assert caught.value.param == param
        assert message in caught.value.message
