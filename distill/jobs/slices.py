"""Cut at claim: a long range gives its first part to the claimer, the rest goes back to the queue."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Row

from distill.db import Session
from distill.jobs import claim_sql as sql
from distill.jobs import outbox

FIRST = 8
MOST = 512
SECONDS = 60
"""A slice is cut to about this long, so that width is divided anew that often."""


def cut(s: Session, row: Row[Any], *, short: bool = False) -> tuple[dict[str, Any], int]:
    """The claimed item's payload and units after the cut; `short` for work that has one thread. The caller holds the job's lock."""
    payload: dict[str, Any] = dict(row.payload)
    keep = slice_length(None if short else _rate(s, row)) if _is_range(payload, row.units) else row.units
    if keep >= row.units:
        return payload, row.units
    middle = payload["start"] + keep
    rest = {**payload, "start": middle}
    payload["stop"] = middle
    s.execute(sql.ADD_REST, {"id": row.id, "payload": json.dumps(rest), "units": row.units - keep})
    s.execute(sql.CUT_ITEM, {"id": row.id, "payload": json.dumps(payload), "units": keep})
    outbox.add(s, row.queue, row.job_id)
    return payload, keep


def slice_length(units_per_second: float | None) -> int:
    """Units for about a minute of work by the measured rate, within 8 to 512; 8 while nothing is measured."""
    return FIRST if units_per_second is None else max(FIRST, min(MOST, round(units_per_second * SECONDS)))


def _is_range(payload: dict[str, Any], units: int) -> bool:
    """A range that is marked `whole` is never cut: what is decided of its examples is decided in one place."""
    return not payload.get("whole") and "start" in payload and "stop" in payload and payload["stop"] - payload["start"] == units


def _rate(s: Session, row: Row[Any]) -> float | None:
    rate = s.execute(sql.RATE, {"job_id": row.job_id, "step": row.step, "kind": row.kind}).scalar_one()
    return None if rate is None else float(rate)
