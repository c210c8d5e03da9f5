"""Connections whose host does not take calls now: what needs them waits, for all workers; then one work item tries.

`limited_until` is the time of the next try. Whoever claims an item as that try moves it on by a lease, so that one tries at a time, and
another may when that one dies. Its first answer ends the wait; its failure makes the next pause longer.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import text

from distill.db import Session
from distill.settings import get_settings

SAID: dict[str, str] = {
    "rate_limited": "rate limited",
    "quota_exhausted": "out of quota",
    "unavailable": "not reachable",
    "device": "device handed over to training",
}
"""Why a connection waits, as readers are told."""

_LIMIT = text("""
UPDATE connections
   SET limited_reason = :reason, limited_since = COALESCE(limited_since, clock_timestamp()), limited_times = limited_times + 1,
       limited_until = clock_timestamp() + make_interval(secs => (1 + random() / 5) *
         CASE WHEN CAST(:asked AS double precision) IS NULL THEN LEAST(:cap, :base * 2 ^ LEAST(limited_times, 20))
              ELSE LEAST(:asked, :longest) END)
 WHERE id = :id AND (limited_since IS NULL OR limited_until <= clock_timestamp() OR :tried)
RETURNING limited_times
""")
_LIMITED = text("""
SELECT id, limited_until <= clock_timestamp() AS due FROM connections
 WHERE id = ANY (:ids) AND limited_since IS NOT NULL ORDER BY id FOR NO KEY UPDATE
""")
_TRY = text("UPDATE connections SET limited_until = clock_timestamp() + make_interval(secs => :seconds) WHERE id = ANY (:ids)")
_TRY_AGAIN = text("UPDATE connections SET limited_until = clock_timestamp() WHERE id = ANY (:ids) AND limited_since IS NOT NULL")
_END = text("""
UPDATE connections SET limited_reason = NULL, limited_since = NULL, limited_until = NULL, limited_times = 0
 WHERE id = ANY (:ids) AND limited_since IS NOT NULL RETURNING id
""")
_WAITING = text("""
SELECT COALESCE(own_name, name) AS name FROM connections
 WHERE id = ANY (:ids) AND (waiting_since IS NOT NULL OR limited_until > clock_timestamp()) ORDER BY name
""")
_TRIED = text("""
SELECT c.id FROM connections c JOIN work_items w ON c.id = ANY (w.connections)
 WHERE w.id = :id AND w.status = 'leased' AND c.limited_since < w.started_at
""")
_ANSWERED = text("""
SELECT c.id FROM connections c JOIN work_items w ON w.id = :item
 WHERE c.id = ANY (:ids) AND EXISTS (
   SELECT FROM lm_usage u
    WHERE u.job_id = w.job_id AND u.kind = 'paid' AND u.calls > 0 AND u.created_at >= w.started_at
      AND starts_with(u.model, COALESCE(c.own_name, c.name) || '/'))
""")
_IS_NEEDED_BY_CLIENT = text("""
SELECT EXISTS (SELECT FROM work_items WHERE queue = 'client' AND status = 'leased' AND CAST(:id AS text) = ANY (connections))
""")
_OF_ITEM = text("SELECT unnest(connections) FROM work_items WHERE id = :id")
_GOES_ON = text("UPDATE work_items SET waits_since = NULL WHERE id = :id AND waits_since IS NOT NULL")
_DUE_NOW = text("""
UPDATE work_items SET run_after = clock_timestamp(), waits_since = CASE WHEN fence > 0 THEN waits_since END
 WHERE id IN (SELECT id FROM work_items WHERE status = 'queued' AND connections && CAST(:ids AS text[]) FOR NO KEY UPDATE SKIP LOCKED)
""")


def limit(s: Session, connection_id: str, reason: str, asked_seconds: float | None, *, tried: bool = False) -> bool:
    """Nobody calls this connection for a while: as long as its host asked for, else a pause that doubles. True when it begins to wait.

    What others have found already stays, unless the caller is the one who `tried`.
    """
    timers = get_settings().timers
    values = {
        "base": timers.connection_pause_seconds,
        "cap": timers.connection_pause_cap_seconds,
        "longest": timers.connection_retry_after_cap_seconds,
    }
    times = s.execute(_LIMIT, {"id": connection_id, "reason": reason, "asked": asked_seconds, "tried": tried, **values}).scalar()
    return times == 1


def begin_try(s: Session, connection_ids: Collection[str]) -> bool:
    """Claim the right to try those of these connections that wait; False when somebody else has it, or their time has not come."""
    found = s.execute(_LIMITED, {"ids": list(connection_ids)}).all()
    if not all(row.due for row in found):
        return False
    s.execute(_TRY, {"ids": [row.id for row in found], "seconds": get_settings().timers.lease_seconds})
    return True


def limit_for_clients(s: Session, connection_id: str, reason: str, asked_seconds: float | None) -> None:
    """`limit`, found out by a call of the gateway; only while a client's work needs the connection, which then ends the wait too."""
    if s.scalar(_IS_NEEDED_BY_CLIENT, {"id": connection_id}):
        limit(s, connection_id, reason, asked_seconds)


def tried_by(s: Session, item_id: int) -> list[str]:
    """The connections that waited when this work item was claimed, and that it tries."""
    return list(s.scalars(_TRIED, {"id": item_id}))


def answered(s: Session, item_id: int, connection_ids: Collection[str]) -> list[str]:
    """Which of these connections have answered a call of the item's job since the item was claimed, as its client's traces say."""
    return list(s.scalars(_ANSWERED, {"item": item_id, "ids": list(connection_ids)}))


def of_item(s: Session, item_id: int) -> list[str]:
    """Which connections of this work item wait now."""
    return names(s, list(s.scalars(_OF_ITEM, {"id": item_id})))


def give_up_try(s: Session, connection_ids: Collection[str]) -> None:
    """The one who had the right to try found nothing out: the next may, at once."""
    s.execute(_TRY_AGAIN, {"ids": list(connection_ids)})


def names(s: Session, connection_ids: Collection[str]) -> list[str]:
    """Which of these wait now, for whatever reason."""
    return list(s.scalars(_WAITING, {"ids": list(connection_ids)}))


def end(s: Session, connection_ids: Collection[str], item_id: int) -> None:
    """Their hosts have answered this work item. What waited for them is due now, so that the dispatcher hints at it."""
    s.execute(_GOES_ON, {"id": item_id})
    forget(s, connection_ids)


def forget(s: Session, connection_ids: Collection[str]) -> None:
    """Nothing is known against them any more: somebody has changed them."""
    ended = list(s.scalars(_END, {"ids": list(connection_ids)}))
    if ended:
        s.execute(_DUE_NOW, {"ids": ended})
