"""OpenInference spans.

The attributes are those of OpenInference's specification (https://arize-ai.github.io/openinference/spec/semantic_conventions.html);
which spans dspy writes is what `openinference-instrumentation-dspy` 0.1.48 does with dspy 3.4.1: `Desk.forward` for a module,
`Predict.forward` and in it `Predict(Classify).forward` for a predictor, `ChatAdapter.__call__`, and the LLM span `LM.__call__`, which has
no `llm.token_count`. OTLP's JSON is https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stillhouse.imports import spans as made
from stillhouse.imports.recorded import Read
from stillhouse.imports.spans import Names, Span


def from_openinference(
    spans: Iterable[Mapping[str, Any]], predictors: Names | None = None, *, program: Mapping[str, Any] | None = None
) -> Read:
    """Spans of OpenTelemetry's JSON (`span.to_json()`), of Phoenix, or whole requests of its protocol (`resourceSpans`).

    The root span of a trace is the run of the program: `input.value` and `output.value` are its inputs and outputs. A span whose name
    `predictors` knows is a call of that predictor; where it does not, a span with the inputs and outputs of one predictor of `program`, a
    spec, is. The LLM span below gives the answer's text and the tokens.

    Raises ValueError when there is neither.
    """
    return made.traces(made.readable(spans, lambda given: map(_span, _unpacked(given))), predictors, program)


def _unpacked(given: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "resourceSpans" not in given:
        yield given
        return
    for resource in given["resourceSpans"]:
        for scope in resource.get("scopeSpans", ()):
            yield from (_of_protocol(span) for span in scope.get("spans", ()))


def _of_protocol(span: Mapping[str, Any]) -> Mapping[str, Any]:
    status = span.get("status") or {}
    failed = status.get("code") in (2, "STATUS_CODE_ERROR")
    return {
        "name": span.get("name"),
        "context": {"trace_id": span["traceId"], "span_id": span["spanId"]},
        "parent_id": span.get("parentSpanId") or None,
        "start_time": span.get("startTimeUnixNano"),
        "end_time": span.get("endTimeUnixNano"),
        "status": {
            "status_code": "ERROR" if failed else "OK",
            "description": status.get("message"),
        },
        "attributes": {each["key"]: next(iter((each.get("value") or {}).values()), None) for each in span.get("attributes", ())},
    }


def _span(span: Mapping[str, Any]) -> Span:
    flat = dict(_flat(span))
    attributes = {name.removeprefix("attributes."): value for name, value in flat.items() if name.startswith("attributes.")}
    failed = str(flat.get("status.status_code") or flat.get("status_code") or "").upper().endswith("ERROR")
    began, ended = made.time(span.get("start_time")), made.time(span.get("end_time"))
    return Span(
        trace=str(flat.get("context.trace_id") or flat["trace_id"]),
        id=str(flat.get("context.span_id") or flat["span_id"]),
        parent=None if span.get("parent_id") is None else str(span["parent_id"]),
        name=str(span.get("name")),
        inputs=made.value(attributes.get("input.value")),
        outputs=made.value(attributes.get("output.value")),
        error=str(flat.get("status.description") or flat.get("status_message") or "the recorded run failed") if failed else None,
        began=began,
        seconds=max(0.0, ended - began),
        is_llm=attributes.get("openinference.span.kind") == "LLM",
        tokens=made.tokens(attributes.get("llm.token_count.prompt"), attributes.get("llm.token_count.completion")),
        text=attributes.get("llm.output_messages.0.message.content"),
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
