"""Hints that wait to be sent. Written in the transaction that makes work claimable; the dispatcher sends them after it commits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import text

from distill.db import Session
from distill.jobs.status import WORKER_QUEUES, Queue
from distill.queue import MAX_HINTS

CHANNEL = "stillhouse_outbox"

_ADD = text("""
WITH added AS (INSERT INTO outbox (queue, job_id) SELECT CAST(:queue AS text), CAST(:job_id AS text) FROM generate_series(1, :many))
SELECT pg_notify(:channel, '')
""")
# ARRAY( … ) is looked up once. With IN the plan may be a loop that looks again for every row, each time beyond what it has locked already:
# LIMIT would then be none.
_TAKE = text("""
UPDATE outbox SET sent_at = clock_timestamp()
 WHERE id = ANY (ARRAY(SELECT id FROM outbox WHERE sent_at IS NULL ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED))
RETURNING id, queue, job_id
""")
_OVERDUE = text("""
UPDATE work_items w SET hinted_at = clock_timestamp()
 WHERE w.id = ANY (ARRAY(
   SELECT late.id FROM unnest(CAST(:queues AS text[])) AS q(name) CROSS JOIN LATERAL (
     SELECT i.id FROM work_items i JOIN jobs j ON j.id = i.job_id
      WHERE i.queue = q.name AND i.status = 'queued' AND NOT i.held AND j.status IN ('queued', 'running')
        AND greatest(i.hinted_at, i.run_after) <= clock_timestamp() - make_interval(secs => :seconds)
      LIMIT :many FOR UPDATE OF i SKIP LOCKED) AS late))
RETURNING w.queue
""")
_DUE = text("""
UPDATE work_items w SET hinted_at = clock_timestamp()
 WHERE w.id = ANY (ARRAY(
   SELECT id FROM work_items
    WHERE status = 'queued' AND NOT held AND queue <> 'client' AND run_after <= clock_timestamp() AND hinted_at < run_after
    LIMIT 500 FOR UPDATE SKIP LOCKED))
RETURNING w.queue
""")
_WAITING = text("""
SELECT w.queue, count(*) AS many
  FROM work_items w JOIN jobs j ON j.id = w.job_id
 WHERE w.status = 'queued' AND NOT w.held AND w.queue <> 'client' AND w.run_after <= clock_timestamp()
   AND j.status IN ('queued', 'running') AND j.project_id = COALESCE(CAST(:project_id AS text), j.project_id)
 GROUP BY w.queue ORDER BY w.queue
""")
_PRUNE = text("DELETE FROM outbox WHERE sent_at < clock_timestamp() - make_interval(secs => :seconds)")


@dataclass(frozen=True, slots=True)
class Hint:
    """One message to send: look at this queue. `many` is how many rows asked for it, for these jobs."""

    queue: str
    many: int
    jobs: frozenset[str] = field(default=frozenset(), compare=False)


def add(s: Session, queue: Queue | str, job_id: str | None = None, many: int = 1) -> None:
    """Ask for `many` hints on `queue`, as far as they could be of use, once this transaction has committed. Clients get none: they ask."""
    if queue == Queue.CLIENT:
        return
    s.execute(_ADD, {"queue": str(queue), "job_id": job_id, "many": min(many, MAX_HINTS), "channel": CHANNEL})


def add_for(s: Session, queues: Iterable[Queue | str], job_id: str) -> None:
    """Ask for a hint for each of a job's items, given by their queues: one alone would wake one worker for all of them."""
    for queue, many in sorted(Counter(str(queue) for queue in queues).items()):
        add(s, queue, job_id, many)


def add_for_waiting(s: Session, project_id: str | None = None) -> None:
    """Ask for hints at all work that is due, of one project or of all: what kept it from being claimed has changed."""
    for row in s.execute(_WAITING, {"project_id": project_id}).all():
        add(s, row.queue, None, row.many)


def take(s: Session, limit: int = 500) -> list[Hint]:
    """Unsent rows, marked as sent and counted by queue. The caller sends them *before* it commits: a crash between repeats a hint."""
    rows = s.execute(_TAKE, {"limit": limit}).all()
    return [
        Hint(hint.queue, hint.many, frozenset(row.job_id for row in rows if row.queue == hint.queue and row.job_id))
        for hint in _count(row.queue for row in rows)
    ]


def take_overdue(s: Session, seconds: float) -> list[Hint]:
    """Queues with items that nobody claimed for `seconds` since their last hint: Redis may have lost it.

    As many of each queue as hints could be of use, so that a long one hides no other; the rest is taken next time.
    """
    values = {"seconds": seconds, "many": MAX_HINTS, "queues": [str(queue) for queue in WORKER_QUEUES]}
    return _count(row.queue for row in s.execute(_OVERDUE, values))


def take_due(s: Session) -> list[Hint]:
    """Queues with items whose `run_after` has just passed."""
    return _count(row.queue for row in s.execute(_DUE))


def prune(s: Session, seconds: float = 3600) -> None:
    s.execute(_PRUNE, {"seconds": seconds})


def _count(queues: Iterable[str]) -> list[Hint]:
    return [Hint(queue, many) for queue, many in Counter(queues).items()]
