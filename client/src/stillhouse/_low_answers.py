"""One answer beside its labels, which says more about a low score than the score."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from stillhouse._client import Stillhouse
from stillhouse._exceptions import APIError
from stillhouse.types import CompileJob, Pair

_LONGEST = 80
_LOOKED_AT = 100


def low_training_answer(client: Stillhouse, job: CompileJob, labels_of: Callable[[int], Mapping[str, Any]]) -> str:
    """`Row 3: verdict is 'junk', its label 'spam' (score 0).`, of the teacher's first answer that did not pass; empty where there is none.

    Only for jobs that failed for want of answers that pass. `labels_of` gives the labels of a row, counted from 1; with its inputs or not.
    """
    if job.error is None or job.error.code not in ("smoke_test_failed", "no_rows_kept"):
        return ""
    with suppress(APIError):  # it only helps to read the error
        for trace in client.compile_jobs.traces.list(job.id, role="teacher:0", passed=False, limit=20, order="asc").data:
            if trace.status == "ok" and trace.row is not None and (score := (trace.score or {}).get("value")) is not None:
                return f"Row {trace.row}: {_beside(trace.outputs or {}, labels_of(trace.row), trace.inputs)} (score {score:g})."
    return ""


def low_held_out_answer(client: Stillhouse, job: CompileJob) -> str:
    """The same of the compiled program's lowest among the first held-out answers; empty where all have the score 1."""
    score = ((job.evaluation or {}).get("compiled") or {}).get("score")
    if job.status != "succeeded" or score is None or score >= 1:
        return ""
    with suppress(APIError):  # it only helps to read the scores
        answered = [pair for pair in client.compile_jobs.pairs(job.id, limit=_LOOKED_AT).data if pair.compiled.get("outputs")]
        low = min(answered, key=_score_of, default=None)
        if low is not None and _score_of(low) < 1:
            inputs = client.programs.retrieve(job.program).inputs if job.program is not None else ()
            return f"Held-out row {low.row}: {_beside(low.compiled['outputs'], low.data, inputs)} (score {_score_of(low):g})."
    return ""


def _score_of(pair: Pair) -> float:
    score = pair.compiled.get("score")
    return 1.0 if score is None else float(score)


def _beside(outputs: Mapping[str, Any], row: Mapping[str, Any], inputs: Collection[str]) -> str:
    """Each output with its label. What of the row is no input of the program is a label."""
    labels = {name: value for name, value in row.items() if name not in inputs}
    pairs = [f"{name} is {_short(outputs[name])}, its label {_short(label)}" for name, label in labels.items() if name in outputs]
    beside = f", the labels {_short(labels)}" if labels else ""
    return "; ".join(pairs) or f"the answer is {_short(dict(outputs))}{beside}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
