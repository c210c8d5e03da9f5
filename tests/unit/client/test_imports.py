"""Traces that exist already: what each form means, and which row a trace belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from app.schemas.client_rollouts import TraceIn
from stillhouse import imports
from stillhouse.imports import Read, Recorded, Rejected
from tests.support import exports

INPUTS = {"message": "I was charged twice."}
CALL = {
    "predictor": "classify",
    "inputs": INPUTS,
    "outputs": {"team": "billing"},
    "raw": "[[ ## team ## ]]\nbilling",
    "usage": {"prompt_tokens": 90, "completion_tokens": 5},
    "seconds": 2.0,
}
TRACE = {
    "status": "ok",
    "inputs": INPUTS,
    "calls": [CALL],
    "usage": {"calls": 1, "prompt_tokens": 90, "completion_tokens": 5},
    "seconds": 4.0,
    "outputs": {"team": "billing"},
}


def span(number: int, parent: int | None, name: str, start: int, stop: int, **attributes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "context": {"trace_id": "0x1", "span_id": f"0x{number}"},
        "parent_id": None if parent is None else f"0x{parent}",
        "start_time": f"2026-11-27T10:00:0{start}.000000Z",
        "end_time": f"2026-11-27T10:00:0{stop}.000000Z",
        "status": {"status_code": "OK"},
        "attributes": attributes,
    }


def values(inputs: Any, outputs: Any, kind: str = "CHAIN") -> dict[str, Any]:
    return {"input.value": json.dumps(inputs), "output.value": json.dumps(outputs), "openinference.span.kind": kind}


LLM = {"llm.token_count.prompt": 90, "llm.token_count.completion": 5, "llm.output_messages.0.message.content": CALL["raw"]}
SPANS = [
    span(3, 2, "LM.__call__", 2, 3, **{**values([], [], "LLM"), **LLM}),
    span(2, 1, "Predict(Route).forward", 1, 3, **values(INPUTS, {"team": "billing"})),
    span(1, None, "Desk.forward", 0, 4, **values(INPUTS, {"team": "billing"})),
]
NAMES = {"Predict(Route).forward": "classify"}


def only(read: Read) -> dict[str, Any]:
    """The one trace of an export that holds nothing else."""
    (found,) = read.traces
    assert (found.number, read.rejected) == (1, [])
    return found.trace


class TestOpenInference:
    def test_root_calls_text_and_tokens(self) -> None:
        assert only(imports.from_openinference(SPANS, NAMES)) == TRACE

    def test_attributes_may_be_nested(self) -> None:
        nested = {
            **SPANS[0],
            "attributes": {
                "openinference": {"span": {"kind": "LLM"}},
                "llm": {"token_count": {"prompt": 90, "completion": 5}, "output_messages": [{"message": {"content": CALL["raw"]}}]},
            },
        }
        assert only(imports.from_openinference([nested, *SPANS[1:]], NAMES)) == TRACE

    def test_a_call_inside_a_call_is_one(self) -> None:
        inner = span(4, 2, "Predict(Inner).forward", 1, 3, **values(INPUTS, {"team": "billing"}))
        assert only(imports.from_openinference([*SPANS, inner], {**NAMES, "Predict(Inner).forward": "classify"})) == TRACE

    def test_the_providers_client_below_the_lm_is_the_same_question(self) -> None:
        without = {**SPANS[0], "attributes": {name: each for name, each in SPANS[0]["attributes"].items() if "token" not in name}}
        client = span(5, 3, "ChatCompletion", 2, 3, **{**values([], [], "LLM"), **LLM})
        assert only(imports.from_openinference([without, client, *SPANS[1:]], NAMES)) == TRACE
        assert only(imports.from_openinference([client, *SPANS], NAMES)) == TRACE

    @pytest.mark.parametrize(
        ("said", "status", "error"),
        [
            ("KeyError: team", "failed", {"type": "KeyError", "message": "team"}),
            ("AdapterParseError: no field", "unparsable", {"type": "AdapterParseError", "message": "no field"}),
            ("it broke: badly", "failed", {"type": "Recorded", "message": "it broke: badly"}),
        ],
    )
    def test_a_run_that_failed_is_a_failed_trace(self, said: str, status: str, error: dict[str, str]) -> None:
        found = only(imports.from_openinference([{**SPANS[2], "status": {"status_code": "ERROR", "description": said}}], {}))
        assert (found["status"], found["error"]) == (status, error)
        assert "outputs" not in found

    def test_what_is_no_run_of_the_program_is_rejected_with_its_place_and_the_reason(self) -> None:
        other = [{**each, "context": {**each["context"], "trace_id": "0x2"}} for each in SPANS]
        text = [*other[:2], {**other[2], "attributes": values("a text", "another")}]
        circle = [{**span(8, 9, "a", 0, 1), "context": {"trace_id": "0x3", "span_id": "0x8"}}]
        circle += [{**span(9, 8, "b", 0, 1), "context": {"trace_id": "0x3", "span_id": "0x9"}}]
        read = imports.from_openinference([*SPANS, *text, *circle], NAMES)
        assert [found.number for found in read.traces] == [1]
        assert read.rejected == [
            Rejected(2, "the inputs of its first span, `Desk.forward`, are no object of named values", "0x2"),
            Rejected(3, "its spans are below each other in a circle", "0x3"),
        ]
        (unknown,) = imports.from_openinference(SPANS, {}).rejected
        assert unknown.reason == "none of its spans is a call of a predictor; they are `Desk.forward`, `Predict(Route).forward`"

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"start_time": "yesterday"}, "item 2: 'yesterday' is no time"),
            ({"attributes": {"llm.token_count.prompt": "many"}}, "item 2: it has another form than such exports have"),
            ({"start_time": {"seconds": 1}}, "item 2: it has another form than such exports have"),
        ],
    )
    def test_of_a_run_with_a_span_that_cannot_be_read_nothing_is_taken(self, changes: dict[str, Any], reason: str) -> None:
        other = [{**each, "context": {**each["context"], "trace_id": "0x2"}} for each in SPANS]
        read = imports.from_openinference([SPANS[0], {**SPANS[1], **changes}, SPANS[2], *other], NAMES)
        assert [(found.number, found.id) for found in read.traces] == [(2, "0x2")]
        assert read.rejected == [Rejected(1, f"one of its spans cannot be read: {reason}", "0x1")]

    @pytest.mark.parametrize("strange", [{"id": "t1", "observations": ["o1"]}, {"resourceSpans": None}, {"resourceSpans": [3]}])
    def test_an_item_that_is_no_span_is_rejected_and_the_others_are_read(self, strange: dict[str, Any]) -> None:
        read = imports.from_openinference([*SPANS, strange], NAMES)
        assert [found.trace for found in read.traces] == [TRACE]
        assert [each.number for each in read.rejected] == [4]

    def test_an_attribute_of_the_protocol_without_a_value(self) -> None:
        given = json.loads(exports.path("otlp.json").read_text())
        for resource in given["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for each in scope["spans"]:
                    each["attributes"].append({"key": "strange", "value": None})
        read = imports.from_openinference([given], program=PROGRAM)
        assert (len(read.traces), read.rejected) == (3, [])

    def test_something_has_to_say_which_spans_are_calls(self) -> None:
        with pytest.raises(ValueError, match="give `predictors`"):
            imports.from_openinference(SPANS)


def predictor(name: str, inputs: tuple[str, ...], output: str) -> dict[str, Any]:
    fields = [*({"name": each, "role": "input"} for each in inputs), {"name": output, "role": "output"}]
    return {"name": name, "lm": "student", "signature": {"fields": fields}}


PROGRAM = {"predictors": [predictor("classify", ("message",), "category"), predictor("reply", ("message", "category"), "answer")]}


class TestRealExports:
    """What instrumented dspy wrote of three runs: two predictors, the third run ends unreadable."""

    CALLED = ("classify", "reply")

    @pytest.mark.parametrize("names", [None, {"Predict(Classify).forward": "classify", "Predict(Reply).forward": "reply"}])
    def test_openinference_as_opentelemetry_prints_it(self, names: dict[str, str] | None) -> None:
        self.check(imports.from_openinference(exports.lines("openinference.jsonl"), names, program=PROGRAM), tokens=0)

    def test_openinference_in_a_request_of_the_protocol(self) -> None:
        self.check(imports.from_openinference([json.loads(exports.path("otlp.json").read_text())], program=PROGRAM), tokens=0)

    def test_observations_of_langfuses_api(self) -> None:
        self.check(imports.from_langfuse(exports.lines("langfuse.jsonl"), program=PROGRAM), tokens=90)

    def test_observations_of_langfuses_export_to_blob_storage(self) -> None:
        """The same in snake_case, and times without a zone."""
        names = {"traceId": "trace_id", "parentObservationId": "parent_observation_id", "usageDetails": "usage_details"}
        names |= {"startTime": "start_time", "endTime": "end_time", "statusMessage": "status_message"}
        found = [{names.get(name, name): item for name, item in each.items()} for each in exports.lines("langfuse.jsonl")]
        for each in found:
            each |= {name: each[name].replace("T", " ").rstrip("Z") for name in ("start_time", "end_time")}
        read = imports.from_langfuse(found, program=PROGRAM)
        self.check(read, tokens=90)
        assert read == imports.from_langfuse(exports.lines("langfuse.jsonl"), program=PROGRAM)

    def check(self, read: Read, tokens: int) -> None:
        assert not read.rejected
        first, second, third = (found.trace for found in read.traces)
        assert [trace["inputs"]["message"] for trace in (first, second, third)] == ["I was charged twice.", "Where is my invoice?", "boom"]
        for trace in (first, second):
            assert (trace["status"], trace["outputs"]) == ("ok", {"category": "billing", "answer": "Team billing will help."})
            assert tuple(call["predictor"] for call in trace["calls"]) == self.CALLED
            assert [call["usage"]["prompt_tokens"] for call in trace["calls"]] == [tokens, tokens]
            assert trace["calls"][0]["raw"] == "[[ ## category ## ]]\nbilling\n\n[[ ## completed ## ]]"
            assert trace["calls"][1]["inputs"] == {"message": trace["inputs"]["message"], "category": "billing"}
        assert (third["status"], third["error"]["type"]) == ("unparsable", "AdapterParseError")


class TestLangfuse:
    GENERATION: ClassVar[dict[str, Any]] = {
        "id": "o2",
        "parentObservationId": "o1",
        "type": "GENERATION",
        "name": "llm",
        "input": [],
        "output": {"role": "assistant", "content": CALL["raw"]},
        "usageDetails": {"input": 90, "output": 5},
        "startTime": "2026-11-27T10:00:02.000Z",
        "endTime": "2026-11-27T10:00:03.000Z",
    }
    SPAN: ClassVar[dict[str, Any]] = {
        "id": "o1",
        "type": "SPAN",
        "name": "route",
        "input": INPUTS,
        "output": {"team": "billing"},
        "startTime": "2026-11-27T10:00:01.000Z",
        "endTime": "2026-11-27T10:00:03.000Z",
    }

    def exported(self, **changes: Any) -> dict[str, Any]:
        whole = {"id": "t1", "timestamp": "2026-11-27T10:00:00.000Z", "latency": 4.0, "input": INPUTS, "output": {"team": "billing"}}
        return {**whole, "observations": [self.SPAN, self.GENERATION], **changes}

    def test_a_trace_with_its_observations(self) -> None:
        assert only(imports.from_langfuse([self.exported()], {"route": "classify"})) == TRACE

    @pytest.mark.parametrize(
        ("strange", "reason"),
        [
            ({"observations": ["o1", "o2"]}, "its observations are not in the export: fetch the trace with them"),
            ({"observations": None}, "its observations are not in the export: fetch the trace with them"),
            ({"observations": [{"name": "route"}]}, "it has no `id`"),
            ({"timestamp": "yesterday"}, "'yesterday' is no time"),
        ],
    )
    def test_a_trace_that_cannot_be_read_is_rejected_and_the_others_are_read(self, strange: dict[str, Any], reason: str) -> None:
        read = imports.from_langfuse([self.exported(**{"id": "t0", **strange}), self.exported()], {"route": "classify"})
        assert [found.trace for found in read.traces] == [TRACE]
        assert read.rejected == [Rejected(1, f"item 1: {reason}", "t0")]

    def test_spans_of_another_format(self) -> None:
        read = imports.from_langfuse(SPANS, NAMES)
        assert (read.traces, [each.number for each in read.rejected]) == ([], [1, 2, 3])

    def test_the_arguments_of_an_observed_function(self) -> None:
        named = self.exported(input=json.dumps({"args": [], "kwargs": INPUTS}))
        assert only(imports.from_langfuse([named], {"route": "classify"})) == TRACE
        (nameless,) = imports.from_langfuse([self.exported(input={"args": ["twice"], "kwargs": {}}, name="desk")], {}).rejected
        assert nameless == Rejected(1, "the inputs of its first span, `desk`, are no object of named values", "t1")

    @pytest.mark.parametrize("output", [CALL["raw"], [CALL["raw"]], json.dumps([CALL["raw"]])])
    def test_an_answer_is_a_text_a_message_or_dspys_list(self, output: Any) -> None:
        exported = self.exported(observations=[self.SPAN, {**self.GENERATION, "output": output}])
        assert only(imports.from_langfuse([exported], {"route": "classify"})) == TRACE

    def test_an_answer_that_is_json_stays_a_text(self) -> None:
        exported = self.exported(observations=[self.SPAN, {**self.GENERATION, "output": '{"team": "billing"}'}])
        assert only(imports.from_langfuse([exported], {"route": "classify"}))["calls"][0]["raw"] == '{"team": "billing"}'


class TestJsonLines:
    def test_one_trace_a_line(self, tmp_path: Path) -> None:
        path = tmp_path / "traces.jsonl"
        path.write_text(json.dumps({"inputs": INPUTS, "outputs": {"team": "billing"}, "calls": [CALL]}) + "\n\n")
        whole = {"status": "ok", "inputs": INPUTS, "outputs": {"team": "billing"}, "calls": [CALL]}
        assert imports.from_jsonl(path) == Read([Recorded(1, whole)], [])

    def test_a_line_ends_at_its_newline_and_nowhere_else(self, tmp_path: Path) -> None:
        path = tmp_path / "traces.jsonl"
        spoken = {"message": "one\u2028two\u0085three"}
        path.write_bytes(json.dumps({"inputs": spoken, "outputs": {}}, ensure_ascii=False).encode() + b"\r\n")
        assert only(imports.from_jsonl(path)) == {"status": "ok", "inputs": spoken, "outputs": {}}

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ({}, "the recorded run has no outputs"),
            ({"outputs": None, "error": None}, "the recorded run has no outputs"),
            ({"error": "KeyError: team" + "!" * 3000}, ("KeyError: team" + "!" * 3000)[: imports.MESSAGE_CHARS]),
        ],
    )
    def test_a_line_without_outputs_has_an_error_as_the_server_takes_it(self, tmp_path: Path, said: dict[str, Any], message: str) -> None:
        path = tmp_path / "traces.jsonl"
        path.write_text(json.dumps({"inputs": INPUTS, **said}))
        found = only(imports.from_jsonl(path))
        assert (found["status"], found["error"]) == ("failed", {"type": "Recorded", "message": message})
        assert found.get("outputs") is None

    def test_what_else_a_line_says_is_left_out_since_the_server_refuses_it(self, tmp_path: Path) -> None:
        call = {**CALL, "id": "c1", "usage": {"prompt_tokens": 90, "completion_tokens": 5, "total_tokens": 95}}
        lines = [
            {"id": "t1", "timestamp": 3, "inputs": INPUTS, "outputs": {"team": "billing"}, "error": None, "calls": [call]},
            {"id": "t2", "inputs": INPUTS, "error": {"type": "KeyError", "message": "team", "code": 7}},
        ]
        path = tmp_path / "traces.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)))
        read = imports.from_jsonl(path)
        assert read.rejected == []
        assert read.traces[0].trace["calls"] == [CALL]
        for trace in imports.match(read.traces, [INPUTS], rollouts=2).traces:
            TraceIn.model_validate(trace)

    def test_an_error_with_its_type_stays(self, tmp_path: Path) -> None:
        path = tmp_path / "traces.jsonl"
        line = {"status": "unparsable", "inputs": INPUTS, "error": {"type": "AdapterParseError", "message": "no field"}}
        path.write_text(json.dumps(line))
        assert only(imports.from_jsonl(path)) == line

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("{", "not valid JSON: "),
            ('{"outputs": {}}', "expected an object with `inputs`, an object"),
            ('{"inputs": {}, "outputs": "billing"}', "`outputs` is not an object"),
            ('{"inputs": {}, "outputs": {}, "calls": [{"predictor": "a"}]}', "`calls` is not a list of objects"),
            ('{"inputs": {}, "outputs": {}, "calls": [{"predictor": "a", "inputs": {}, "outputs": "x"}]}', "`calls.0.outputs`: "),
            ('{"inputs": {}, "outputs": {}, "calls": [{"inputs": {}}]}', "`calls.0.predictor`: "),
            ('{"inputs": {}, "outputs": {}, "error": "it broke"}', "it has `outputs` and an `error`"),
            ('{"inputs": {}, "outputs": {}, "status": "failed"}', "its `status` is failed, and it has `outputs`"),
            ('{"inputs": {}, "error": "it broke", "status": "ok"}', "its `status` is ok, and it has no `outputs`"),
            ('{"inputs": {}, "outputs": {}, "seconds": -1}', "`seconds`: "),
            ('{"inputs": {}, "outputs": {"score": NaN}}', "not valid JSON: NaN"),
        ],
    )
    def test_a_line_that_is_none_is_rejected_and_the_others_are_read(self, tmp_path: Path, line: str, why: str) -> None:
        path = tmp_path / "traces.jsonl"
        path.write_text("\n".join([json.dumps({"inputs": INPUTS}), "", line, json.dumps({"inputs": INPUTS})]))
        read = imports.from_jsonl(path)
        assert [found.number for found in read.traces] == [1, 4]
        assert [(each.number, each.reason.startswith(why)) for each in read.rejected] == [(3, True)]


class TestMatch:
    ROWS = ({"message": "Where is it?", "team": "account"}, {"message": "I was charged twice.", "team": "billing"})

    def test_by_inputs_whatever_labels_the_row_has(self) -> None:
        other = Recorded(2, {**TRACE, "inputs": {"message": "Nobody's row"}}, "0x2")
        found = imports.match([Recorded(1, TRACE), other], self.ROWS)
        assert [(trace["role"], trace["row"], trace["rollout"]) for trace in found.traces] == [("teacher:0", 2, 0)]
        assert "inputs" not in found.traces[0]
        assert found.rejected == [Rejected(2, "no row of the dataset has these inputs", "0x2")]

    @pytest.mark.parametrize(
        ("cell", "value"),
        [
            ("7", 7),
            ("007", 7),
            ("+1", 1),
            (".5", 0.5),
            ("TRUE", True),
            (' ["a", {"b": null}]', ["a", {"b": None}]),
            ("7", "7"),
            ("true", "true"),
            ("", ""),
        ],
    )
    def test_the_cells_of_a_csv_are_texts_and_a_trace_has_values(self, cell: str, value: Any) -> None:
        rows = [{"message": "x", "given": "no JSON"}, {"message": "x", "given": cell}]
        found = imports.match([Recorded(1, {**TRACE, "inputs": {"given": value, "message": "x"}})], rows)
        assert [trace["row"] for trace in found.traces] == [2]

    def test_a_text_is_no_number_and_a_trace_without_inputs_has_no_row(self) -> None:
        rows: list[dict[str, Any]] = [{"given": 7}, {"given": "8"}]
        asked: list[dict[str, Any]] = [{"given": "7"}, {"given": None}, {}]
        traces = [Recorded(number, {**TRACE, "inputs": inputs}) for number, inputs in enumerate(asked, 1)]
        found = imports.match(traces, rows)
        assert [each.number for each in found.rejected] == [1, 2, 3]

    def test_each_trace_is_compared_by_its_own_inputs(self) -> None:
        rows = [{"message": "Where?", "language": "en"}, {"message": "Wo?", "language": "de"}, {"message": "Wo?"}]
        asked = [{"language": "de", "message": "Wo?"}, {"message": "Where?"}, {"message": "Where?", "language": "fr"}]
        found = imports.match([Recorded(number, {**TRACE, "inputs": inputs}) for number, inputs in enumerate(asked, 1)], rows)
        assert [trace["row"] for trace in found.traces] == [2, 1]
        assert [each.number for each in found.rejected] == [3]

    def test_as_many_for_a_row_as_the_job_asks(self) -> None:
        found = imports.match([Recorded(number, TRACE) for number in (1, 2, 3)], self.ROWS, rollouts=2)
        assert [(trace["row"], trace["rollout"]) for trace in found.traces] == [(2, 0), (2, 1)]
        assert found.rejected == [Rejected(3, "row 2 has 2 of these already, as many rollouts as the job asks of an example")]
