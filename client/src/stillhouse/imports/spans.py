"""The steps of recorded runs, whatever wrote them down, and the traces that they make."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from stillhouse.imports.recorded import MESSAGE_CHARS, Json, Read, Recorded, Rejected, read_all, recorded_error

UNREADABLE = "AdapterParseError"
"""What dspy raises for an answer without the fields that were asked for."""


@dataclass
class Span:
    """One step of a run."""

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
    below: list[Span] = field(default_factory=list)


@dataclass(frozen=True)
class Unread:
    """An item of an export that cannot be read, and the runs that it says it belongs to."""

    number: int
    reason: str
    traces: Sequence[str]


class Unfit(ValueError):
    """What is wrong with an item, in words for whoever exported it."""


Names = Mapping[str, str]
PredictorOf = Callable[[Span], "str | None"]
Exported = Mapping[str, Any]


def readable(exported: Iterable[Exported], spans_of: Callable[[Exported], Iterable[Span]]) -> Iterator[Span | Unread]:
    """The spans of each item, all or none of them."""
    for number, given in enumerate(exported, 1):
        try:
            yield from list(spans_of(given))
        except (AttributeError, KeyError, TypeError, ValueError) as fault:
            yield Unread(number, f"item {number}: {_told(fault)}", list(_traces_of(given)))


def _told(fault: Exception) -> str:
    if isinstance(fault, KeyError):
        return f"it has no `{fault.args[0]}`"
    return str(fault) if isinstance(fault, Unfit) else "it has another form than such exports have"


def _traces_of(given: Any) -> Iterator[str]:
    """The ids of traces that stand anywhere in an item, whatever its form is."""
    if isinstance(given, Mapping):
        if "observations" in given and "id" in given:
            yield str(given["id"])
        for name, item in given.items():
            if name in ("traceId", "trace_id", "context.trace_id") and item is not None:
                yield str(item)
            yield from _traces_of(item)
    elif isinstance(given, list):
        for each in given:
            yield from _traces_of(each)


def traces(spans: Iterable[Span | Unread], names: Names | None, program: Mapping[str, Any] | None) -> Read:
    """A trace for each run, in the order in which the runs come; of a run that cannot be read whole nothing is taken.

    Raises ValueError when nothing says which spans are calls.
    """
    if names is None and program is None:
        raise ValueError("which spans are calls of which predictor? give `predictors` (names of spans to names of predictors) or `program`")
    by_trace: defaultdict[str, list[Span]] = defaultdict(list)
    unread: list[Unread] = []
    for span in spans:
        if isinstance(span, Unread):
            unread.append(span)
        else:
            by_trace[span.trace].append(span)
    return read_all(_runs(by_trace, unread, _teller(names or {}, program)))


def _runs(by_trace: Mapping[str, Sequence[Span]], unread: Sequence[Unread], predictor_of: PredictorOf) -> Iterator[Recorded | Rejected]:
    lacking = {key: item.reason for item in reversed(unread) for key in item.traces}
    for number, (key, found) in enumerate(by_trace.items(), 1):
        if key in lacking:
            yield Rejected(number, f"one of its spans cannot be read: {lacking[key]}", key)
        else:
            yield _trace(number, key, found, predictor_of)
    for item in unread:
        if not any(key in by_trace for key in item.traces):
            yield Rejected(item.number, item.reason, next(iter(item.traces), None))


def _teller(names: Names, program: Mapping[str, Any] | None) -> PredictorOf:
    """By the names that were given, else by the fields: a call has the inputs and outputs of its predictor, no more and no fewer."""
    by_fields: defaultdict[tuple[frozenset[str], frozenset[str]], list[str]] = defaultdict(list)
    for predictor in (program or {}).get("predictors", ()):
        fields = predictor["signature"]["fields"]
        sides = [frozenset(each["name"] for each in fields if each["role"] == role) for role in ("input", "output")]
        by_fields[sides[0], sides[1]].append(predictor["name"])

    def tell(span: Span) -> str | None:
        if span.name in names:
            return names[span.name]
        if span.is_llm or not isinstance(span.inputs, dict) or not isinstance(span.outputs, dict):
            return None
        found = by_fields.get((frozenset(span.inputs), frozenset(span.outputs)), [])
        return found[0] if len(found) == 1 else None

    return tell


def _trace(number: int, key: str, spans: Sequence[Span], predictor_of: PredictorOf) -> Recorded | Rejected:
    by_id = {span.id: span for span in spans}
    roots = [span for span in spans if span.parent not in by_id]
    if not roots:
        return Rejected(number, "its spans are below each other in a circle", key)
    root = min(roots, key=lambda span: span.began)
    if not isinstance(root.inputs, dict):
        return Rejected(number, f"the inputs of its first span, `{root.name}`, are no object of named values", key)
    for span in spans:
        if span.parent in by_id:
            by_id[span.parent].below.append(span)
    calls = list(_calls(root, predictor_of))
    body = _body(root, calls)
    if body["status"] == "ok" and not calls:
        names = ", ".join(f"`{name}`" for name in sorted({span.name for span in spans if not span.is_llm}))
        return Rejected(number, f"none of its spans is a call of a predictor; they are {names}", key)
    return Recorded(number, body, key)


def _body(root: Span, calls: Sequence[Json]) -> Json:
    used = [call["usage"] for call in calls]
    usage = {"calls": len(calls), **{name: sum(each[name] for each in used) for name in ("prompt_tokens", "completion_tokens")}}
    whole: Json = {"inputs": root.inputs, "calls": calls, "usage": usage, "seconds": root.seconds}
    if root.error is None and isinstance(root.outputs, dict):
        return {"status": "ok", **whole, "outputs": root.outputs}
    error = _typed(root.error)
    return {"status": "unparsable" if error["type"] == UNREADABLE else "failed", **whole, "error": error}


def _typed(error: str | None) -> Json:
    """OpenTelemetry writes an exception as `KeyError: team`."""
    name, colon, message = (error or "").partition(": ")
    return {"type": name[:200], "message": message[:MESSAGE_CHARS]} if colon and name.isidentifier() else recorded_error(error)


def _calls(span: Span, predictor_of: PredictorOf) -> Iterator[Json]:
    """In their order. A call that another call makes is recorded once: `ChainOfThought` holds the `Predict` that it runs."""
    predictor = predictor_of(span)
    if predictor is not None:
        yield _call(span, predictor)
        return
    for each in _in_order(span.below):
        yield from _calls(each, predictor_of)


def _call(span: Span, predictor: str) -> Json:
    asked = list(_asked(span))
    return {
        "predictor": predictor,
        "inputs": span.inputs if isinstance(span.inputs, dict) else {},
        "outputs": span.outputs if isinstance(span.outputs, dict) else None,
        "raw": asked[-1].text if asked else None,
        "usage": {name: sum(_tokens_of(each, name) for each in asked) for name in ("prompt_tokens", "completion_tokens")},
        "seconds": span.seconds,
    }


def _asked(span: Span) -> Iterator[Span]:
    """The LLM spans of a call; one inside another is the provider's client under dspy's LM, and the same question."""
    if span.is_llm:
        yield span
        return
    for each in _in_order(span.below):
        yield from _asked(each)


def _tokens_of(span: Span, name: str) -> int:
    """dspy's LM knows no tokens; the provider's client below it does."""
    return int(span.tokens[name] or sum(_tokens_of(each, name) for each in span.below))


def _in_order(spans: Iterable[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: span.began)


# ------------------------------------------------------------------ how values are written


def value(given: Any) -> Any:
    """JSON in a text is read; any other text stays one."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except ValueError:
        return given


def tokens(prompt: Any, completion: Any) -> Json:
    return {"prompt_tokens": int(prompt or 0), "completion_tokens": int(completion or 0)}


def time(given: Any) -> float:
    """Seconds; ISO 8601 texts, of UTC where they do not say, or nanoseconds as OpenTelemetry's protocol has them."""
    if isinstance(given, (int, float)) or (isinstance(given, str) and given.isdecimal()):
        return float(given) / 1e9
    if not given:
        return 0.0
    try:
        moment = datetime.fromisoformat(given.replace("Z", "+00:00"))
    except ValueError:
        raise Unfit(f"{given!r} is no time") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
