"""Traces that exist already: what each form means, and which row a trace belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stillhouse import imports

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


class TestOpenInference:
    def test_root_calls_text_and_tokens(self) -> None:
        assert imports.from_openinference(SPANS, {"Predict(Route).forward": "classify"}) == [TRACE]

    def test_attributes_may_be_nested(self) -> None:
        nested = {
            **SPANS[0],
            "attributes": {
                "openinference": {"span": {"kind": "LLM"}},
                "llm": {"token_count": {"prompt": 90, "completion": 5}, "output_messages": [{"message": {"content": CALL["raw"]}}]},
            },
        }
        assert imports.from_openinference([nested, *SPANS[1:]], {"Predict(Route).forward": "classify"}) == [TRACE]

    def test_a_call_inside_a_call_is_one(self) -> None:
        inner = span(4, 2, "Predict(Inner).forward", 1, 3, **values(INPUTS, {"team": "billing"}))
        names = {"Predict(Route).forward": "classify", "Predict(Inner).forward": "classify"}
        assert imports.from_openinference([*SPANS, inner], names) == [TRACE]

    def test_a_run_that_failed_is_a_failed_trace(self) -> None:
        failed = {**SPANS[2], "status": {"status_code": "ERROR", "description": "KeyError: team"}}
        (found,) = imports.from_openinference([failed], {})
        assert (found["status"], found["error"]) == ("failed", {"type": "Recorded", "message": "KeyError: team"})
        assert "outputs" not in found


def test_langfuse() -> None:
    exported = {
        "id": "t1",
        "timestamp": "2026-11-27T10:00:00.000Z",
        "latency": 4.0,
        "input": INPUTS,
        "output": {"team": "billing"},
        "observations": [
            {
                "id": "o1",
                "type": "SPAN",
                "name": "route",
                "input": INPUTS,
                "output": {"team": "billing"},
                "startTime": "2026-11-27T10:00:01.000Z",
                "endTime": "2026-11-27T10:00:03.000Z",
            },
            {
                "id": "o2",
                "parentObservationId": "o1",
                "type": "GENERATION",
                "name": "llm",
                "input": [],
                "output": {"role": "assistant", "content": CALL["raw"]},
                "usageDetails": {"input": 90, "output": 5},
                "startTime": "2026-11-27T10:00:02.000Z",
                "endTime": "2026-11-27T10:00:03.000Z",
            },
        ],
    }
    assert imports.from_langfuse([exported], {"route": "classify"}) == [TRACE]


class TestJsonLines:
    def test_one_trace_a_line(self, tmp_path: Path) -> None:
        path = tmp_path / "traces.jsonl"
        path.write_text(json.dumps({"inputs": INPUTS, "outputs": {"team": "billing"}, "calls": [CALL]}) + "\n\n")
        assert imports.from_jsonl(path) == [{"status": "ok", "inputs": INPUTS, "outputs": {"team": "billing"}, "calls": [CALL]}]

    def test_a_line_ends_at_its_newline_and_nowhere_else(self, tmp_path: Path) -> None:
        path = tmp_path / "traces.jsonl"
        spoken = {"message": "one\u2028two\u0085three"}
        path.write_bytes(json.dumps({"inputs": spoken, "outputs": {}}, ensure_ascii=False).encode() + b"\r\n")
        assert imports.from_jsonl(path) == [{"status": "ok", "inputs": spoken, "outputs": {}}]

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
        (found,) = imports.from_jsonl(path)
        assert (found["status"], found["error"]) == ("failed", {"type": "Recorded", "message": message})
        assert found.get("outputs") is None

    def test_an_error_with_its_type_stays(self, tmp_path: Path) -> None:
        path = tmp_path / "traces.jsonl"
        line = {"status": "unparsable", "inputs": INPUTS, "error": {"type": "AdapterParseError", "message": "no field"}}
        path.write_text(json.dumps(line))
        assert imports.from_jsonl(path) == [line]

    @pytest.mark.parametrize(("line", "why"), [("{", "line 2: "), ('{"outputs": {}}', "line 2: expected an object with `inputs`")])
    def test_a_line_that_is_none_is_named(self, tmp_path: Path, line: str, why: str) -> None:
        path = tmp_path / "traces.jsonl"
        path.write_text(json.dumps({"inputs": INPUTS}) + "\n" + line)
        with pytest.raises(ValueError, match=why):
            imports.from_jsonl(path)


class TestMatch:
    ROWS = ({"message": "Where is it?", "team": "account"}, {"message": "I was charged twice.", "team": "billing"})

    def test_by_inputs_whatever_labels_the_row_has(self) -> None:
        other = {**TRACE, "inputs": {"message": "Nobody's row"}}
        found = imports.match([TRACE, other], self.ROWS)
        assert [(trace["role"], trace["row"], trace["rollout"]) for trace in found.traces] == [("teacher:0", 2, 0)]
        assert "inputs" not in found.traces[0]
        assert found.unmatched == [other]

    def test_as_many_for_a_row_as_the_job_asks(self) -> None:
        found = imports.match([TRACE] * 3, self.ROWS, rollouts=2)
        assert [(trace["row"], trace["rollout"]) for trace in found.traces] == [(2, 0), (2, 1)]
        assert found.unmatched == [TRACE]
