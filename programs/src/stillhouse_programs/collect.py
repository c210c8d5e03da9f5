"""One rollout: run a program on one example, keep every predictor call, and say how it ended. Then its score.

A rollout ends `ok`, `failed` (the program's own exception) or `unparsable` (the prompt adapter could not read an answer): these are facts
about the program. Everything else (rate limits, time, budget, a lost relay) raises InfrastructureError and is no fact.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import PurePath
from traceback import extract_tb
from typing import Any, NamedTuple, TypeVar

import dspy
from dspy.utils.exceptions import AdapterParseError
from pydantic import TypeAdapter, ValidationError

from stillhouse_programs.metrics import read_score
from stillhouse_programs.protocol import MAX_MESSAGE_CHARS, InfrastructureError, Json, message_of
from stillhouse_programs.recorder import SETTING, Own, Recorder, fields_of, jsonable, tag_predictors

_MAX_FRAMES = 5
_GRACE_SECONDS = 1.0
_LEAST_SECONDS = 0.01

Metric = Callable[..., Any]
Waited = Callable[[str], Awaitable[float]]  # of a rollout's name: the seconds its LM calls have waited for a place so far
T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """A program ready to run. `output_types` holds the declared type of each returned field, where it is known."""

    program: dspy.Module
    prompt_adapter: dspy.Adapter
    named: dict[str, Own]
    output_types: dict[str, Any]
    predictors: dict[str, dspy.Predict]

    @property
    def runs_as_task(self) -> bool:
        return hasattr(self.program, "aforward")

    @property
    def lm(self) -> dspy.BaseLM | None:
        """The LM of the first predictor: what predictors without an LM of their own ask, such as the one that Refine makes."""
        return next((predictor.lm for predictor in self.predictors.values()), None)


def prepare_program(program: dspy.Module, prompt_adapter: dspy.Adapter, output_types: dict[str, Any] | None = None) -> Prepared:
    """Tag the predictors of a program whose LMs are set."""
    return Prepared(program, prompt_adapter, tag_predictors(program), output_types or {}, dict(program.named_predictors()))


async def run_rollout(
    prepared: Prepared,
    inputs: Json,
    *,
    token: str,
    seed: int | None = None,
    time_limit_seconds: float | None = None,
    threads: Executor | None = None,
    waited: Waited | None = None,
) -> Json:
    """The trace of one rollout, as JSON. Raises InfrastructureError.

    The limit does not count what `waited` tells: the time in which LM calls only stood in a queue.
    A program without `aforward` runs in `threads`; one that overruns its limit there cannot be stopped, only left behind.
    """
    recorder = Recorder(token, seed, prepared.named, prepared.prompt_adapter)
    started = time.perf_counter()
    try:
        uncounted = None if waited is None else functools.partial(waited, recorder.rollout)
        outcome = await within(time_limit_seconds, _outcome(prepared, inputs, recorder, threads), uncounted)
    finally:
        recorder.close()
    if recorder.infrastructure is not None:
        raise recorder.infrastructure
    return _trace(inputs, outcome, recorder, time.perf_counter() - started)


class _Outcome(NamedTuple):
    status: str
    outputs: Json | None = None
    error: Json | None = None


async def _outcome(prepared: Prepared, inputs: Json, recorder: Recorder, threads: Executor | None) -> _Outcome:
    try:
        return _Outcome("ok", await _run(prepared, inputs, recorder, threads))
    except AdapterParseError as fault:
        return _Outcome("unparsable", error=_describe(fault, _parse_message(fault, recorder)))
    except (InfrastructureError, asyncio.CancelledError):
        raise
    except MemoryError as fault:
        raise InfrastructureError("memory", "the runner is out of memory") from fault
    except BaseException as fault:  # the program's own doing, SystemExit and KeyboardInterrupt included
        return _Outcome("failed", error=_describe(fault))


async def within(seconds: float | None, work: Coroutine[Any, Any, T], uncounted: Callable[[], Awaitable[float]] | None = None) -> T:
    """The result of `work`. Raises InfrastructureError when it takes longer than `seconds` (None: no limit) and what is `uncounted`.

    Work that will not be cancelled is left behind: a program may swallow CancelledError, a thread cannot be stopped.
    """
    task = asyncio.create_task(work)
    try:
        done = await _finishes(task, seconds, uncounted)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        await asyncio.wait({task}, timeout=_GRACE_SECONDS)
        raise InfrastructureError("time_limit", f"not done within {seconds} s")
    return task.result()


async def _finishes(task: asyncio.Task[Any], seconds: float | None, uncounted: Callable[[], Awaitable[float]] | None) -> bool:
    """Whether a task ends in time. What does not count is asked for only once the time seems to be up."""
    started, left = time.monotonic(), seconds
    while not (await asyncio.wait({task}, timeout=left))[0]:
        if seconds is None or uncounted is None:
            return False
        left = started + seconds + await uncounted() - time.monotonic()
        if left < _LEAST_SECONDS:
            return False
    return True


async def _run(prepared: Prepared, inputs: Json, recorder: Recorder, threads: Executor | None) -> Json:
    trace: list[Any] = []
    settings = {SETTING: recorder, "trace": trace, "adapter": prepared.prompt_adapter, "lm": prepared.lm}
    with dspy.context(disable_history=True, track_usage=False, **settings):
        if prepared.runs_as_task:
            prediction = await prepared.program.acall(**inputs)
        else:
            context = contextvars.copy_context()
            loop = asyncio.get_running_loop()
            prediction = await loop.run_in_executor(threads, lambda: context.run(lambda: prepared.program(**inputs)))
    recorder.mark_discarded(trace)
    if not isinstance(prediction, dspy.Prediction):
        raise TypeError(f"the program returned {type(prediction).__name__}, not a dspy.Prediction")
    return {name: value if type(value) is str else jsonable(value) for name, value in prediction.items()}


def _parse_message(fault: AdapterParseError, recorder: Recorder) -> str:
    cut = any(call.truncated for call in recorder.calls)
    why = "The answer was cut off at max_tokens. " if cut else ""
    return f"{why}{fault.adapter_name} found no {', '.join(fault.signature.output_fields)} in the answer"


def _describe(fault: BaseException, message: str | None = None) -> Json:
    """Type, message and the last frames, without folders: traces are shown to people and stored for long."""
    frames = [f"{PurePath(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in extract_tb(fault.__traceback__)]
    text = message_of(fault) if message is None else message[:MAX_MESSAGE_CHARS]
    return {"type": type(fault).__name__, "message": text, "traceback": "\n".join(frames[-_MAX_FRAMES:])}


def _trace(inputs: Json, outcome: _Outcome, recorder: Recorder, seconds: float) -> Json:
    return {
        "status": outcome.status,
        "inputs": inputs,
        "outputs": outcome.outputs,
        "calls": [call.as_json() for call in recorder.calls],
        "error": outcome.error,
        "usage": {**recorder.usage.as_json(), "lms": {slot: usage.as_json() for slot, usage in recorder.usage_of.items()}},
        "foreign_calls": recorder.foreign_calls,
        "seconds": round(seconds, 4),
    }


# ------------------------------------------------------------------ scores


async def score_trace(
    prepared: Prepared, trace: Json, labels: Json, metric: Metric, min_score: float, time_limit_seconds: float | None = None
) -> Json:
    """The score of a trace, as JSON. It depends on the stored trace alone, so a fresh run and a reused trace score alike.

    A rollout without an answer scores 0 without asking the metric. Raises InfrastructureError when the metric overruns its time.
    """
    if trace["status"] != "ok":
        return _score(0.0, error=f"the rollout ended {trace['status']}")
    return await within(time_limit_seconds, _ask_metric(prepared, trace, labels, metric, min_score))


async def _ask_metric(prepared: Prepared, trace: Json, labels: Json, metric: Metric, min_score: float) -> Json:
    example = dspy.Example({**trace["inputs"], **labels}).with_inputs(*trace["inputs"])
    return await _asked(lambda: metric(example, rebuild_prediction(prepared, trace), rebuild_calls(prepared, trace)), min_score)


async def score_pair(metric: Metric, row: Json, outputs: Json) -> Json:
    """The score of an answer that no program gave, as JSON: there is no trace, and what is no output is an input."""
    example = dspy.Example(row).with_inputs(*(name for name in row if name not in outputs))
    return await _asked(lambda: metric(example, dspy.Prediction(outputs), []), 1.0)


async def _asked(ask: Callable[[], Any], min_score: float) -> Json:
    try:
        value = ask()
        if inspect.isawaitable(value):
            value = await value
    except (InfrastructureError, asyncio.CancelledError):
        raise
    except BaseException as fault:
        return _score(None, status="failed", error=f"{type(fault).__name__}: {message_of(fault)}"[:MAX_MESSAGE_CHARS])
    score = read_score(value, min_score)
    return _score(score.value, passed=score.passed, status=score.status, feedback=score.feedback, error=score.error)


def _score(value: float | None, *, passed: bool = False, status: str = "ok", feedback: str | None = None, error: str | None = None) -> Json:
    return {"value": value, "passed": passed, "status": status, "feedback": feedback, "error": error}


def rebuild_prediction(prepared: Prepared, trace: Json) -> dspy.Prediction:
    """The program's prediction, with the declared types of its fields and the log-probability of all its calls' answers together."""
    outputs = {name: typed(value, prepared.output_types.get(name)) for name, value in (trace["outputs"] or {}).items()}
    known = [call.get("logprob") for call in trace["calls"] if call["outputs"] is not None and not call.get("discarded")]
    return _with_logprob(dspy.Prediction(outputs), sum(known) if known and None not in known else None)


def rebuild_calls(prepared: Prepared, trace: Json) -> list[tuple[dspy.Predict, Json, dspy.Prediction]]:
    """The trace in dspy's own form, for metrics that read it: (predictor, inputs, prediction) of each call that has an answer."""
    calls = []
    for call in trace["calls"]:
        predictor = prepared.predictors.get(call["predictor"])
        if predictor is None or call["outputs"] is None or call.get("discarded"):
            continue
        types = fields_of(predictor.signature).outputs
        outputs = {name: typed(value, types.get(name)) for name, value in call["outputs"].items()}
        calls.append((predictor, call["inputs"], _with_logprob(dspy.Prediction(outputs), call.get("logprob"))))
    return calls


def _with_logprob(prediction: dspy.Prediction, logprob: float | None) -> dspy.Prediction:
    """An attribute beside the fields, so that a metric that compares or counts fields sees those alone."""
    if "logprob" not in prediction:
        object.__setattr__(prediction, "logprob", logprob)
    return prediction


def typed(value: Any, annotation: Any) -> Any:
    """A JSON value as its declared type; as it is where it does not fit."""
    if annotation is None or annotation is str or value is None:
        return value
    try:
        return _type_adapter(annotation).validate_python(value)
    except ValidationError:
        return value


_TYPE_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _type_adapter(annotation: Any) -> TypeAdapter[Any]:
    known = _TYPE_ADAPTERS.get(annotation)
    if known is None:
        known = _TYPE_ADAPTERS[annotation] = TypeAdapter(annotation)
    return known
