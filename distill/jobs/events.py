"""A job's events: appended with the change they tell of, numbered in commit order, announced by NOTIFY."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Literal

from sqlalchemy import ColumnElement, literal_column, or_, select, text

from distill.catalog.copying import clean
from distill.db import Session, readable
from distill.jobs.models import JobEvent
from distill.redaction import redact_text, redacted

CHANNEL = "stillhouse_job"
"""NOTIFY channel; the payload is the job's id. Listeners read the rows, the notice only says that there are some."""

Level = Literal["debug", "info", "warning", "error"]

_APPEND = text("""
WITH numbered AS (UPDATE jobs SET event_seq = event_seq + 1 WHERE id = :job_id RETURNING event_seq)
INSERT INTO job_events (job_id, seq, type, level, message, data)
SELECT :job_id, event_seq, :type, :level, :message, CAST(:data AS json) FROM numbered
RETURNING seq, pg_notify(:channel, :job_id)
""")

_MAY_TELL_PROGRESS = text("""
UPDATE jobs SET progress_event_at = clock_timestamp()
 WHERE id = :job_id AND (progress_event_at IS NULL OR progress_event_at <= clock_timestamp() - make_interval(secs => :seconds))
RETURNING 1
""")


# Of an item that has told nothing new for so many events of its job, the same is told once more.
_DATA = readable("data")
_SAID_LAST = text(f"""
SELECT message, data FROM (SELECT * FROM job_events WHERE job_id = :job_id ORDER BY seq DESC LIMIT 100) newest
 WHERE type = :type AND {_DATA} ->> 'item' = :item ORDER BY seq DESC LIMIT 1
""")  # noqa: S608 - no value is put in


def append(s: Session, job_id: str, type: str, message: str, data: dict[str, Any] | None = None, level: Level = "info") -> int:
    """Write one event and return its number. It takes the job's row lock: call it last, so that number order is commit order.

    `message` may quote what a user or an LM host sent, characters that PostgreSQL cannot hold and keys among it.
    """
    values = {"job_id": job_id, "type": type, "level": level, "message": clean(redact_text(message)), "channel": CHANNEL}
    row = s.execute(_APPEND, {**values, "data": None if data is None else json.dumps(redacted(data))}).one()
    return int(row.seq)


def append_progress(s: Session, job_id: str, type: str, message: str, data: dict[str, Any], seconds: float) -> int | None:
    """Like `append`, but at most one in `seconds` a job; returns None when it is too early for another, or it would repeat the last one.

    Another guess of the seconds that are left is no news by itself.
    """
    last = s.execute(_SAID_LAST, {"job_id": job_id, "type": type, "item": str(data["item"])}).first()
    if last is not None and (last.message, _news(last.data)) == (clean(redact_text(message)), _news(redacted(data))):
        return None
    if s.execute(_MAY_TELL_PROGRESS, {"job_id": job_id, "seconds": seconds}).first() is None:
        return None
    return append(s, job_id, type, message, data)


def _news(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "seconds_remaining"}


def after(s: Session, job_id: str, seq: int, limit: int = 500) -> list[JobEvent]:
    """Events numbered above `seq`, in order."""
    statement = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > seq).order_by(JobEvent.seq).limit(limit)
    return list(s.scalars(statement))


def concerning(s: Session, job_id: str, fine_tune_job_id: str, types: Collection[str], before: int | None, limit: int) -> list[JobEvent]:
    """Events of some types that are about a fine-tune job, the newest first: those that name it, and those that name none."""
    named: ColumnElement[str | None] = literal_column(f"{readable('job_events.data')} ->> 'fine_tuning_job'")
    statement = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.type.in_(types))
    if before is not None:
        statement = statement.where(JobEvent.seq < before)
    statement = statement.where(or_(named.is_(None), named == fine_tune_job_id))
    return list(s.scalars(statement.order_by(JobEvent.seq.desc()).limit(limit)))
