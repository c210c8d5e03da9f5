"""Evaluations as their readers see them: the roles, and the examples one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from app.schemas.evaluations import AnswerRead, EvaluationsRead, PairRead
from distill.jobs.models import Job
from distill.jobs.pairs import Pair, Side

NO_VERDICT = frozenset({"no_holdout"})
"""Warnings that say why a job has no evaluation."""


def evaluations_read(job: Job) -> EvaluationsRead:
    """The roles of an evaluation as a list; without a holdout, why there are none."""
    known: Mapping[str, Any] = job.evaluation or {}
    roles = [{"role": name, **report} for name, report in known.items() if isinstance(report, dict) and "score" in report]
    note = next((warning["message"] for warning in job.warnings if warning["code"] in NO_VERDICT), None)
    return EvaluationsRead(
        data=roles,
        n=known.get("n"),
        metric=known.get("metric"),
        delta=known.get("delta"),
        references=known.get("references") or {},
        note=note,
    )


def pair_read(pair: Pair, dataset: str, row: Mapping[str, Any]) -> PairRead:
    return PairRead(
        cursor=str(pair.example + 1),
        row=pair.example + 1,
        dataset=dataset,
        data=dict(row),
        change=pair.change,
        difference=pair.difference,
        compiled=_answer(pair.compiled),
        against=_answer(pair.other),
    )


def _answer(side: Side) -> AnswerRead:
    told = side.fact.data or {}
    body: Mapping[str, Any] = json.loads(side.trace.body) if side.trace else {}
    return AnswerRead(
        role=side.fact.role,
        status=side.fact.status,
        score=side.score,
        outputs=body.get("outputs"),
        message=side.fact.message,
        seconds=told.get("seconds"),
        usage=told.get("usage") or {},
        trace=side.trace.id if side.trace else None,
    )
