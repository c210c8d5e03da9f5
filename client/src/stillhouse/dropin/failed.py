"""Which examples taught nothing, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from stillhouse._client import Stillhouse
from stillhouse.types import Rejection


def failed_examples(client: Stillhouse, job_id: str, trainset: Sequence[Any], teachers: int) -> list[Any]:
    """Copies of the examples that none of so many teachers passed on, in their order; `failure` says what became of each run."""
    why: dict[int, list[str]] = defaultdict(list)
    for rejection in client.compile_jobs.rejections(job_id, limit=100, order="asc"):
        if rejection.row is not None and rejection.predictor is None:  # of a whole run, not of one call in a run that passed
            why[rejection.row].append(_told(rejection))
    return [_with(trainset[row - 1], "; ".join(told)) for row, told in sorted(why.items()) if len(told) >= teachers]


def _told(rejection: Rejection) -> str:
    detail = rejection.message or (None if rejection.score is None else f"score {rejection.score:g}")
    return f"{rejection.reason}: {detail}" if detail else rejection.reason


def _with(example: Any, failure: str) -> Any:
    return example.copy(failure=failure).with_inputs(*example.inputs().keys())
