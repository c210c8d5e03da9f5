"""Traces that exist already, as a job takes them: from JSON Lines, from OpenInference spans, from a Langfuse export.

traces = stillhouse.imports.from_openinference(spans, {"Predict(Classify).forward": "classify"})
found = stillhouse.imports.match(traces, rows)
client.compile_jobs.traces.create(job.id, found.traces, source="import")
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from stillhouse._plain import plain_json

Json = dict[str, Any]
MESSAGE_CHARS = 2000


@dataclass(frozen=True)
class Matched:
    """Traces with their rows, ready to be sent, and those whose inputs are in no row."""

    traces: list[Json]
    unmatched: list[Json]


@dataclass
class _Span:
    """One step of a recorded run, whatever wrote it down."""

    trace: str
    id: str
    parent: str | None
    name: str
    inputs: Any
    outputs: Any
    error: str | None
    began: float
    seconds: float
    is_llm: bool
    tokens: Json
    text: str | None
    below: list[_Span] = field(default_factory=list)


def from_jsonl(path: str | Path) -> list[Json]:
    """One trace a line: `inputs`, `outputs` (or `error`, a text or `{type, message}`), `calls` of `{predictor, inputs, outputs}`.

    Raises ValueError that names the line.
    """
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            trace = json.loads(line)
        except ValueError as fault:
            raise ValueError(f"line {number}: {fault}") from None
        if not isinstance(trace, dict) or not isinstance(trace.get("inputs"), dict):
            raise ValueError(f"line {number}: expected an object with `inputs`")
        found.append(_with_status(trace))
    return found


def _with_status(trace: Json) -> Json:
    """As the server takes it: what has no outputs failed, for a reason that has a type."""
    if trace.get("outputs") is not None:
        return {"status": "ok", **trace}
    error = trace.get("error")
    return {"status": "failed", **trace, "error": error if isinstance(error, dict) else _recorded(error)}


def _recorded(error: Any) -> Json:
    return {"type": "Recorded", "message": str(error or "the recorded run has no outputs")[:MESSAGE_CHARS]}


def from_openinference(spans: Iterable[Mapping[str, Any]], predictors: Mapping[str, str]) -> list[Json]:
    """OpenInference spans, as OpenTelemetry's JSON or Phoenix's export has them. `predictors` maps names of spans to those of predictors.

    The root span of a trace is the run of the program: `input.value` and `output.value` are its inputs and outputs. A span whose name
    `predictors` knows is a call; the LLM span below it gives the answer's text and the tokens.
    """
    return _traces((_of_openinference(span) for span in spans), predictors)


def from_langfuse(traces: Iterable[Mapping[str, Any]], predictors: Mapping[str, str]) -> list[Json]:
    """A Langfuse export: traces with their `observations`. `predictors` maps names of observations to those of predictors.

    A trace's `input` and `output` are those of the program. An observation whose name `predictors` knows is a call; a generation that is
    it, or that is below it, gives the answer's text and the tokens.
    """
    return _traces((span for trace in traces for span in _of_langfuse(trace)), predictors)


def match(traces: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], *, role: str = "teacher:0", rollouts: int = 1) -> Matched:
    """Find each trace's row by its inputs, which must equal the row's fields of the same names.

    At most `rollouts` traces go to one row, as many as the job asks of each example; further ones are `unmatched`, and so are traces
    whose inputs are in no row. Rows with equal inputs share their traces on the server, so the first of them gets them.
    """
    names = list(dict.fromkeys(name for trace in traces for name in trace["inputs"]))
    row_of: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        row_of.setdefault(_key({name: row[name] for name in names if name in row}), number)
    taken: defaultdict[int, int] = defaultdict(int)
    found, left = [], []
    for trace in traces:
        row_number = row_of.get(_key({name: trace["inputs"][name] for name in names if name in trace["inputs"]}))
        if row_number is None or taken[row_number] == rollouts:
            left.append(dict(trace))
            continue
        body = {name: value for name, value in trace.items() if name != "inputs"}
        found.append({"role": role, "row": row_number, "rollout": taken[row_number], **body})
        taken[row_number] += 1
    return Matched(found, left)


def _key(inputs: Mapping[str, Any]) -> str:
    return json.dumps(plain_json(inputs), ensure_ascii=False)


# ------------------------------------------------------------------ spans into traces


def _traces(spans: Iterable[_Span], predictors: Mapping[str, str]) -> list[Json]:
    by_trace: defaultdict[str, list[_Span]] = defaultdict(list)
    for span in spans:
        by_trace[span.trace].append(span)
    return [_trace(found, predictors) for found in by_trace.values() if isinstance(_root(found).inputs, dict)]


def _root(spans: Sequence[_Span]) -> _Span:
    known = {span.id for span in spans}
    return min((span for span in spans if span.parent not in known), key=lambda span: span.began)


def _trace(spans: Sequence[_Span], predictors: Mapping[str, str]) -> Json:
    root, by_id = _root(spans), {span.id: span for span in spans}
    for span in spans:
        if span.parent in by_id:
            by_id[span.parent].below.append(span)
    called = sorted((span for span in spans if span.name in predictors), key=lambda span: span.began)
    outer = [span for span in called if not _is_inside(span, by_id, predictors)]
    calls = [_call(span, predictors[span.name]) for span in outer]
    used = [call["usage"] for call in calls]
    usage = {"calls": len(calls), **{name: sum(each[name] for each in used) for name in ("prompt_tokens", "completion_tokens")}}
    whole: Json = {"inputs": root.inputs, "calls": calls, "usage": usage, "seconds": root.seconds}
    if root.error is None and isinstance(root.outputs, dict):
        return {"status": "ok", **whole, "outputs": root.outputs}
    return {"status": "failed", **whole, "error": _recorded(root.error)}


def _is_inside(span: _Span, by_id: Mapping[str, _Span], predictors: Mapping[str, str]) -> bool:
    """A call that another call makes is recorded once: `ChainOfThought` and the `Predict` inside it may both be named."""
    above = by_id.get(span.parent or "")
    while above is not None:
        if above.name in predictors:
            return True
        above = by_id.get(above.parent or "")
    return False


def _call(span: _Span, predictor: str) -> Json:
    asked = [each for each in _all_below(span) if each.is_llm]
    tokens = {name: sum(each.tokens[name] for each in asked) for name in ("prompt_tokens", "completion_tokens")}
    return {
        "predictor": predictor,
        "inputs": span.inputs if isinstance(span.inputs, dict) else {},
        "outputs": span.outputs if isinstance(span.outputs, dict) else None,
        "raw": asked[-1].text if asked else None,
        "usage": tokens,
        "seconds": span.seconds,
    }


def _all_below(span: _Span) -> Iterator[_Span]:
    yield span
    for each in sorted(span.below, key=lambda below: below.began):
        yield from _all_below(each)


# ------------------------------------------------------------------ what each of them writes


def _of_openinference(span: Mapping[str, Any]) -> _Span:
    flat = dict(_flat(span))
    attributes = {name.removeprefix("attributes."): value for name, value in flat.items() if name.startswith("attributes.")}
    status = str(flat.get("status.status_code") or flat.get("status_code") or "").upper()
    failed = status.endswith("ERROR")
    began, ended = _time(span.get("start_time")), _time(span.get("end_time"))
    return _Span(
        trace=str(flat.get("context.trace_id") or flat.get("trace_id")),
        id=str(flat.get("context.span_id") or flat.get("span_id")),
        parent=None if span.get("parent_id") is None else str(span["parent_id"]),
        name=str(span.get("name")),
        inputs=_value(attributes.get("input.value")),
        outputs=_value(attributes.get("output.value")),
        error=str(flat.get("status.description") or flat.get("status_message") or "the recorded run failed") if failed else None,
        began=began,
        seconds=max(0.0, ended - began),
        is_llm=attributes.get("openinference.span.kind") == "LLM",
        tokens=_tokens(attributes.get("llm.token_count.prompt"), attributes.get("llm.token_count.completion")),
        text=attributes.get("llm.output_messages.0.message.content"),
    )


def _of_langfuse(trace: Mapping[str, Any]) -> Iterator[_Span]:
    key = str(trace["id"])
    failed = [each for each in trace.get("observations", ()) if each.get("level") == "ERROR" and not each.get("parentObservationId")]
    error = str(failed[0].get("statusMessage") or "the recorded run failed") if failed else None
    began = _time(trace.get("timestamp"))
    seconds = float(trace.get("latency") or 0.0)
    inputs, outputs = _value(trace.get("input")), _value(trace.get("output"))
    yield _Span(key, key, None, "", inputs, outputs, error, began, seconds, False, _tokens(0, 0), None)
    for each in trace.get("observations", ()):
        start, end = _time(each.get("startTime")), _time(each.get("endTime"))
        usage = each.get("usageDetails") or each.get("usage") or {}
        output = each.get("output")
        yield _Span(
            trace=key,
            id=str(each["id"]),
            parent=str(each.get("parentObservationId") or key),
            name=str(each.get("name")),
            inputs=_value(each.get("input")),
            outputs=_value(output),
            error=None,
            began=start,
            seconds=max(0.0, end - start),
            is_llm=each.get("type") == "GENERATION",
            tokens=_tokens(usage.get("input"), usage.get("output")),
            text=output if isinstance(output, str) else output.get("content") if isinstance(output, Mapping) else None,
        )


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": [1]}}` as `("a.b.0", 1)`: attributes are nested in one export and dotted in another."""
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{above}{name}.")
        elif isinstance(item, list):
            yield from _flat({str(at): each for at, each in enumerate(item)}, f"{above}{name}.")
        else:
            yield f"{above}{name}", item


def _value(given: Any) -> Any:
    """JSON in a text is read; any other text stays one."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except ValueError:
        return given


def _tokens(prompt: Any, completion: Any) -> Json:
    return {"prompt_tokens": int(prompt or 0), "completion_tokens": int(completion or 0)}


def _time(given: Any) -> float:
    """Seconds; ISO 8601 texts, or numbers of nanoseconds as OpenTelemetry's protocol has them."""
    if isinstance(given, (int, float)):
        return float(given) / 1e9
    return datetime.fromisoformat(given.replace("Z", "+00:00")).timestamp() if given else 0.0
