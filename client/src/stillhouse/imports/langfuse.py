"""Langfuse exports.

Fields are those of the public API (`ObservationV2` of the package `langfuse` 5.0.4) and of the export to blob storage
(https://langfuse.com/docs/api-and-data-platform/features/blob-storage-export-fields), which writes the same names in snake_case, times of
UTC without a zone, and `input` and `output` as texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stillhouse.imports import spans as made
from stillhouse.imports.recorded import Read
from stillhouse.imports.spans import Names, Span, Unfit

GENERATION = "GENERATION"


def from_langfuse(
    exported: Iterable[Mapping[str, Any]], predictors: Names | None = None, *, program: Mapping[str, Any] | None = None
) -> Read:
    """Observations of the API or of the export to blob storage, or traces with their `observations`.

    A run's inputs and outputs are those of its trace, or of its root observation. An observation whose name `predictors` knows is a call of
    that predictor; where it does not, an observation with the inputs and outputs of one predictor of `program`, a spec, is. A generation
    that is the call, or below it, gives the answer's text and the tokens.

    Raises ValueError when there is neither.
    """
    return made.traces(made.readable(exported, _spans), predictors, program)


def _spans(given: Mapping[str, Any]) -> Iterator[Span]:
    if "observations" not in given:
        yield _observed(given)
        return
    trace, observations = given, given["observations"]
    if not isinstance(observations, list) or not all(isinstance(each, Mapping) for each in observations):
        raise Unfit("its observations are not in the export: fetch the trace with them")
    key = str(trace["id"])
    failed = [each for each in observations if each.get("level") == "ERROR" and not _of(each, "parentObservationId")]
    error = _error(failed[0]) if failed else None
    inputs, outputs = _value(trace.get("input")), _value(trace.get("output"))
    seconds = float(trace.get("latency") or 0.0)
    name = str(trace.get("name") or "")
    yield Span(key, key, None, name, inputs, outputs, error, made.time(trace.get("timestamp")), seconds, False, made.tokens(0, 0), None)
    yield from (_observed(each, key) for each in observations)


def _observed(each: Mapping[str, Any], trace: str | None = None) -> Span:
    start, end = made.time(_of(each, "startTime")), made.time(_of(each, "endTime"))
    usage = _of(each, "usageDetails") or each.get("usage") or {}
    parent = _of(each, "parentObservationId") or trace
    return Span(
        trace=trace or str(_of(each, "traceId")),
        id=str(each["id"]),
        parent=None if parent is None else str(parent),
        name=str(each.get("name")),
        inputs=_value(each.get("input")),
        outputs=_value(each.get("output")),
        error=_error(each) if each.get("level") == "ERROR" else None,
        began=start,
        seconds=max(0.0, end - start),
        is_llm=each.get("type") == GENERATION,
        tokens=made.tokens(usage.get("input"), usage.get("output")),
        text=_text(each.get("output")),
    )


def _of(each: Mapping[str, Any], name: str) -> Any:
    """`traceId`, or `trace_id` as the export to blob storage has it."""
    return each.get(name, each.get("".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)))


def _error(each: Mapping[str, Any]) -> str:
    return str(_of(each, "statusMessage") or "the recorded run failed")


def _value(given: Any) -> Any:
    """`@observe` writes a function's arguments as `{"args": [], "kwargs": {}}`; those without a name belong to no field."""
    found = made.value(given)
    if isinstance(found, dict) and found.keys() == {"args", "kwargs"}:
        return found["kwargs"] if not found["args"] else None
    return found


def _text(given: Any) -> str | None:
    """A generation's answer: a text, a message, or dspy's list of texts."""
    output = made.value(given)
    if isinstance(output, list) and output:
        output = output[0]
    if isinstance(output, Mapping) and "content" in output:
        output = output["content"]
    found = output if isinstance(output, str) else given
    return found if isinstance(found, str) else None
