"""Workers that were heard of lately. Claims do not look here: it tells readers why nothing runs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from distill.db import Session
from distill.settings import get_settings

_SEEN = text("""
INSERT INTO workers (name, queues, capabilities, threads, version) VALUES (:name, :queues, :capabilities, :threads, :version)
ON CONFLICT (name) DO UPDATE
   SET queues = EXCLUDED.queues, capabilities = EXCLUDED.capabilities, threads = EXCLUDED.threads, version = EXCLUDED.version,
       seen_at = clock_timestamp()
""")
_ALL = text("""
SELECT w.name, w.queues, w.capabilities, w.threads, w.version, w.started_at, w.seen_at,
       w.seen_at > clock_timestamp() - make_interval(secs => :silence) AS alive,
       (SELECT count(*) FROM work_items i WHERE i.status = 'leased' AND i.lease_owner = w.name) AS busy
  FROM workers w ORDER BY w.started_at, w.name
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


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker that was heard of within the last hour and was not stopped. `busy` counts the work items that it holds."""

    name: str
    queues: list[str]
    capabilities: list[str]
    threads: int | None
    version: str | None
    started_at: datetime
    seen_at: datetime
    alive: bool
    busy: int


def list_workers(s: Session) -> list[Seen]:
    """The oldest first."""
    return [Seen(**row) for row in s.execute(_ALL, {"silence": silence_seconds()}).mappings()]


def seen(
    s: Session, name: str, queues: Collection[str], capabilities: Collection[str], threads: int | None = None, version: str | None = None
) -> None:
    """A worker is there, and listens to these queues."""
    values = {"name": name, "queues": sorted(queues), "capabilities": sorted(capabilities), "threads": threads, "version": version}
    s.execute(_SEEN, values)


def gone(s: Session, name: str) -> None:
    """It claims nothing any more."""
    s.execute(_GONE, {"name": name})


def by_queue(s: Session) -> dict[str, int]:
    """How many live workers listen to each queue; a queue without any is not in it."""
    return {row.queue: row.many for row in s.execute(_BY_QUEUE, {"silence": silence_seconds()})}


def prune(s: Session) -> None:
    """Forget those that died without a word."""
    s.execute(_PRUNE)
