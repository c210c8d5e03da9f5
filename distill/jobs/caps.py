"""How many threads a project, and all projects together, may use at once, counted exactly while many claim; and whose turn it was.

A claim sees the leases that are committed. Two that are made at once see neither each other's, so where there is a cap they go one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text

from distill.catalog import project_limits
from distill.catalog.models import Project
from distill.db import Session
from distill.jobs import outbox
from distill.settings import get_settings

_LOCK_PROJECT = text("SELECT max_threads FROM projects WHERE id = :id FOR NO KEY UPDATE")
_LOCK_ALL = text("SELECT pg_advisory_xact_lock(hashtextextended('max_threads', 0))")
_LEASED = text("""
SELECT COALESCE(sum(w.width), 0) AS everybodys, COALESCE(sum(w.width) FILTER (WHERE j.project_id = :project_id), 0) AS projects
  FROM work_items w JOIN jobs j ON j.id = w.job_id WHERE w.status = 'leased' AND w.id <> :item_id
""")
_SERVED = text("""
UPDATE projects SET served_at = clock_timestamp()
 WHERE id = (SELECT id FROM projects WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED)
""")


def narrowed(s: Session, room: int, project_id: str, item_id: int, *, capped: bool) -> int:
    """`room` threads, or as many of them as the caps leave for this item, which the caller has leased. They stay the caller's until its
    transaction ends; from here on it takes only what the job's lock guards."""
    most = s.execute(_LOCK_PROJECT, {"id": project_id}).scalar_one() if capped else None
    everybody = get_settings().limits.max_threads
    if everybody is not None:
        s.execute(_LOCK_ALL)
    if most is None and everybody is None:
        return room
    used = s.execute(_LEASED, {"project_id": project_id, "item_id": item_id}).one()
    left = [cap - int(width) for cap, width in ((most, used.projects), (everybody, used.everybodys)) if cap is not None]
    return min(room, *left)


def change_limits(s: Session, project_id: str, changes: Mapping[str, Any]) -> Project:
    """Set limits of a project (see `project_limits.change`), and hint at its work: a cap that was raised may let it run at once."""
    project = project_limits.change(s, project_id, changes)
    outbox.add_for_waiting(s, project_id)
    return project


def served(s: Session, project_id: str) -> None:
    """The project had its turn. Nobody waits to say so: whoever says it at this moment says the same."""
    s.execute(_SERVED, {"id": project_id})
