"""How long work waits for a connection that does not take calls: as long as the settings say, then its job fails with a clear error.

An item waits since it met the trouble, or since the dispatcher saw that it cannot be claimed. A user's retry begins the time anew, as
does an answer to a call of its own; another job's answer does so only for an item that was never run itself. Nobody gives up while the
next try is due or under way: after a time in which the whole server was off, the host may answer again.
"""

from __future__ import annotations

from sqlalchemy import text

from distill.catalog.waits import SAID
from distill.db import Session
from distill.errors import JobFault
from distill.jobs import claims
from distill.jobs.status import Step
from distill.settings import get_settings

_NOTE = text("""
UPDATE work_items w SET waits_since = CASE WHEN n.waits THEN clock_timestamp() END
  FROM (SELECT i.id, j.status <> 'paused' AS waits
          FROM work_items i JOIN jobs j ON j.id = i.job_id
         WHERE i.status = 'queued' AND NOT i.held
           AND CASE WHEN i.waits_since IS NULL
                    THEN j.status IN ('queued', 'running')
                         AND i.connections && ARRAY(SELECT id FROM connections WHERE limited_since IS NOT NULL)
                    ELSE j.status = 'paused' END
         LIMIT 1000 FOR NO KEY UPDATE OF i SKIP LOCKED) n
 WHERE w.id = n.id
""")
_OVER = text("""
SELECT w.job_id, w.step, c.name, c.limited_reason
  FROM work_items w JOIN jobs j ON j.id = w.job_id LEFT JOIN connections c ON c.id = ANY (w.connections) AND c.limited_since IS NOT NULL
 WHERE w.status = 'queued' AND w.waits_since < clock_timestamp() - make_interval(secs => :seconds)
   AND j.status IN ('queued', 'running') AND j.cancel_requested_at IS NULL AND j.pause_requested_at IS NULL
   AND (c.limited_until > clock_timestamp() OR c.id IS NULL AND w.started_at > clock_timestamp() - make_interval(secs => :seconds))
   AND NOT EXISTS (SELECT FROM work_items t WHERE t.status = 'leased' AND c.id = ANY (t.connections))
 ORDER BY c.name NULLS LAST LIMIT 1
""")


def note(s: Session) -> None:
    """Begin the time of items that cannot be claimed for a connection's sake, and end that of paused jobs."""
    s.execute(_NOTE)


def give_up(s: Session) -> str | None:
    """Fail one job whose time is over, and return its id; None when there is none."""
    seconds = get_settings().timers.connection_patience_seconds
    row = s.execute(_OVER, {"seconds": seconds}).first()
    if row is None:
        return None
    who = f"Connection {row.name} is {SAID[row.limited_reason]}" if row.name else "A connection does not answer these calls"
    message = f"{who}: this job could not go on for {_words(seconds)}. What was paid for is kept. Retry the job when it answers again."
    claims.fail_job(s, row.job_id, JobFault("connection_unavailable", message, "system", None, str(Step(row.step).public), True))
    return str(row.job_id)


def _words(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.0f} h" if hours >= 1 else f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:g} s"
