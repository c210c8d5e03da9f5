"""Maintenance: a drained server takes no new jobs, and nobody claims work. Kept in the database, so every process obeys it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from distill.catalog import audit, projects
from distill.db import Session
from distill.errors import Unavailable
from distill.jobs import outbox

RETRY_AFTER_SECONDS = 120
"""Longer than the SDK waits by itself: its caller gets the error at once."""
_SERVER = "server"

_BEGIN = text("""
INSERT INTO server_meta (key, value)
VALUES ('drain', json_build_object('since', clock_timestamp(), 'reason', CAST(:reason AS text))::text)
ON CONFLICT (key) DO NOTHING RETURNING key
""")
_SET_REASON = text("""
UPDATE server_meta SET value = json_build_object('since', CAST(value AS json) ->> 'since', 'reason', CAST(:reason AS text))::text
 WHERE key = 'drain'
""")
_END = text("DELETE FROM server_meta WHERE key = 'drain' RETURNING key")
_VALUE = text("SELECT value FROM server_meta WHERE key = 'drain'")
_HELD = text("SELECT count(*) FROM work_items WHERE status = 'leased'")


@dataclass(frozen=True, slots=True)
class Maintenance:
    """`running_items` are work items that somebody still holds; with a drain it falls to 0."""

    since: datetime | None
    reason: str | None
    running_items: int

    @property
    def draining(self) -> bool:
        return self.since is not None


def begin(s: Session, reason: str | None = None) -> None:
    """Refuse new jobs, and have workers give back what they hold. Repeating it replaces a given reason and keeps the time."""
    if s.execute(_BEGIN, {"reason": reason}).first() is not None:
        audit.record(s, _project_id(s), "server.drained", _SERVER, {"reason": reason})
    elif reason is not None:
        s.execute(_SET_REASON, {"reason": reason})


def end(s: Session) -> None:
    """Take jobs again, and hint at all work that waits. Repeating it changes nothing."""
    if s.execute(_END).first() is None:
        return
    audit.record(s, _project_id(s), "server.resumed", _SERVER)
    outbox.add_for_waiting(s)


def read(s: Session) -> Maintenance:
    held = int(s.scalar(_HELD) or 0)
    value = s.scalar(_VALUE)
    if value is None:
        return Maintenance(None, None, held)
    drain = json.loads(value)
    return Maintenance(datetime.fromisoformat(drain["since"]), drain["reason"], held)


def is_drained(s: Session) -> bool:
    return s.scalar(_VALUE) is not None


def check_open(s: Session) -> None:
    """Raises Unavailable while the server is drained."""
    value = s.scalar(_VALUE)
    if value is not None:
        given = json.loads(value)["reason"]
        reason = f" ({given})" if given else ""
        message = f"The server is under maintenance{reason} and takes no new jobs. Those that it has go on afterwards. Try again later."
        raise Unavailable(message, retry_after=RETRY_AFTER_SECONDS, code="maintenance")


def _project_id(s: Session) -> str:
    """Of the operators' project, whose audit log has what was done to the whole server."""
    return projects.ensure(s, projects.OPERATORS).id
