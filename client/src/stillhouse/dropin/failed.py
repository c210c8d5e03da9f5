"""Which examples taught nothing, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from stillhouse._client import Stillhouse
from stillhouse._exceptions import APIError
from stillhouse.types import CompileJob, Rejection

_LONGEST = 80


def failed_examples(client: Stillhouse, job_id: str, trainset: Sequence[Any], teachers: int) -> list[Any]:
    """Copies of the examples that none of so many teachers passed on, in their order; `failure` says what became of each run."""
    why: dict[int, list[str]] = defaultdict(list)
    for rejection in client.compile_jobs.rejections(job_id, limit=100, order="asc"):
        if rejection.row is not None and rejection.predictor is None:  # of a whole run, not of one call in a run that passed
            why[rejection.row].append(_told(rejection))
    return [_with(trainset[row - 1], "; ".join(told)) for row, told in sorted(why.items()) if len(told) >= teachers]


def low_example(client: Stillhouse, job: CompileJob, trainset: Sequence[Any]) -> str:
    """`Row 3: verdict is 'junk', its label 'spam' (score 0).`, of the first answer that did not pass; empty where there is none."""
    if job.error is None or job.error.code not in ("smoke_test_failed", "no_rows_kept"):
        return ""
    with suppress(APIError):  # it only helps to read the error
        for trace in client.compile_jobs.traces.list(job.id, role="teacher:0", passed=False, limit=20, order="asc").data:
            if trace.status == "ok" and trace.row is not None and (score := (trace.score or {}).get("value")) is not None:
                return f"Row {trace.row}: {_beside(trace.outputs or {}, trainset[trace.row - 1].labels())} (score {score:g})."
    return ""


def _beside(outputs: Mapping[str, Any], labels: Any) -> str:
    both = [name for name in labels.keys() if name in outputs]  # noqa: SIM118, an Example iterates otherwise
    pairs = [f"{name} is {_short(outputs[name])}, its label {_short(labels[name])}" for name in both]
    return "; ".join(pairs) or f"the answer is {_short(dict(outputs))}, the labels {_short(dict(labels.items()))}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _told(rejection: Rejection) -> str:
    detail = rejection.message or (None if rejection.score is None else f"score {rejection.score:g}")
    return f"{rejection.reason}: {detail}" if detail else rejection.reason


def _with(example: Any, failure: str) -> Any:
    return example.copy(failure=failure).with_inputs(*example.inputs().keys())
