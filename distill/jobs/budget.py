"""A job's budget of LM calls: taken in blocks, spent in the relay's memory, settled when the block's holder is done."""

from __future__ import annotations

from sqlalchemy import text

from distill.db import Session

BLOCKS = 10
"""With fewer blocks left than these, calls are taken one by one: none lie unused with one item while another finds nothing."""

_TAKE = text("""
UPDATE jobs j SET calls_taken = j.calls_taken + granted.calls
  FROM (SELECT id, CASE WHEN max_calls IS NULL OR max_calls - calls_taken >= :blocks * :calls THEN :calls
                        ELSE LEAST(GREATEST(max_calls - calls_taken, 0), 1) END AS calls
          FROM jobs WHERE id = :job_id FOR UPDATE) AS granted
 WHERE j.id = granted.id RETURNING granted.calls
""")
_GIVE_BACK = text("UPDATE jobs SET calls_taken = GREATEST(calls_taken - :calls, 0) WHERE id = :job_id")
_LEFT = text("SELECT max_calls - calls_taken FROM jobs WHERE id = :job_id")


def take(s: Session, job_id: str, calls: int) -> int:
    """Reserve up to `calls` LM calls of the job's budget; returns how many were granted: one near the budget's end, 0 when it is spent."""
    return int(s.execute(_TAKE, {"job_id": job_id, "calls": calls, "blocks": BLOCKS}).scalar_one())


def give_back(s: Session, job_id: str, calls: int) -> None:
    """Return what was reserved and not spent. What a lost worker had reserved counts as spent: it may have been."""
    if calls > 0:
        s.execute(_GIVE_BACK, {"job_id": job_id, "calls": calls})


def left(s: Session, job_id: str) -> int | None:
    """Calls that may still be taken; None without a budget."""
    left = s.execute(_LEFT, {"job_id": job_id}).scalar_one()
    return None if left is None else int(left)
