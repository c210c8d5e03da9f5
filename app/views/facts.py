"""Traces, rejections, training files and curves as their readers see them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from app.schemas.compile_jobs import CurveRead, RejectionRead, TraceRead
from app.views.convert import seconds
from distill.catalog.facts import RowFact
from distill.jobs.facts import Rollout, reason_of
from distill.jobs.models import FineTuneJob
from distill.storage import BlobStore


def trace_read(rollout: Rollout) -> TraceRead:
    """A rollout; what left no fact has no calls."""
    fact, trace = rollout.fact, rollout.trace
    body: Mapping[str, Any] = json.loads(trace.body) if trace else {}
    return TraceRead(
        id=trace.id if trace else f"fact-{fact.id}",
        cursor=str(fact.id),
        created_at=seconds(fact.created_at),
        role=fact.role,
        row=fact.example_index + 1,
        rollout=fact.rollout,
        status=trace.status if trace else fact.status,
        reused=bool(fact.reused),
        inputs=body.get("inputs", {}),
        outputs=body.get("outputs"),
        calls=body.get("calls", []),
        usage=body.get("usage", {}),
        cost_usd=body.get("usage", {}).get("usd"),
        error=body.get("error") or (None if trace or fact.status == "ok" else _error_of(fact)),
        score={"value": fact.score, "passed": fact.passed} if fact.score is not None or fact.passed is not None else None,
    )


def _error_of(fact: RowFact) -> dict[str, str]:
    """Of a rollout that left no trace, or whose trace was removed."""
    return {"type": fact.reason or fact.status, "message": fact.message or ""}


def rejection_read(fact: RowFact) -> RejectionRead:
    """Why a rollout or a call was not trained on."""
    return RejectionRead(
        cursor=str(fact.id),
        row=fact.example_index + 1,
        rollout=fact.rollout,
        role=fact.role,
        predictor=fact.predictor,
        trace_digest=fact.trace_digest,
        reason=reason_of(fact),
        message=fact.message,
        score=fact.score,
        tokens=sum((fact.data or {}).get("tokens") or ()) or None,
    )


def curve_read(store: BlobStore, row: FineTuneJob, told: Sequence[Mapping[str, Any]]) -> CurveRead:
    """The points of one training: all that the trainer wrote, or what it has told while it goes on."""
    lines = store.read(row.curve).splitlines() if row.curve else []
    points = [json.loads(line) for line in lines if line.strip()] if row.curve else list(told)
    return CurveRead(fine_tuning_job=row.id, lm=",".join(row.lms), predictor=row.predictor, points=points)
