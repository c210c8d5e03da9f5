"""Workers that were heard of lately. Claims do not look here: it tells readers why nothing runs."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import text

from distill.db import Session
from distill.settings import get_settings

_SEEN = text("""
INSERT INTO workers (name, queues, capabilities, threads) VALUES (:name, :queues, :capabilities, :threads)
ON CONFLICT (name) DO UPDATE
   SET queues = EXCLUDED.queues, capabilities = EXCLUDED.capabilities, threads = EXCLUDED.threads, seen_at = clock_timestamp()
""")
_GONE = text("DELETE FROM workers WHERE name = :name")
_BY_QUEUE = text("""
SELECT queue, count(*) AS many FROM workers, unnest(queues) AS queue
 WHERE seen_at > clock_timestamp() - make_interval(secs => :silence) GROUP BY queue
""")
_PRUNE = text("DELETE FROM workers WHERE seen_at < clock_timestamp() - interval '1 hour'")


def silence_seconds() -> float:
    """Of whom nothing was heard for so long is not alive."""
    return 3 * get_settings().timers.worker_seen_seconds


def seen(s: Session, name: str, queues: Collection[str], capabilities: Collection[str], threads: int | None = None) -> None:
    """A worker is there, and listens to these queues."""
    s.execute(_SEEN, {"name": name, "queues": sorted(queues), "capabilities": sorted(capabilities), "threads": threads})


def gone(s: Session, name: str) -> None:
    """It claims nothing any more."""
    s.execute(_GONE, {"name": name})


def by_queue(s: Session) -> dict[str, int]:
    """How many live workers listen to each queue; a queue without any is not in it."""
    return {row.queue: row.many for row in s.execute(_BY_QUEUE, {"silence": silence_seconds()})}


def prune(s: Session) -> None:
    """Forget those that died without a word."""
    s.execute(_PRUNE)
