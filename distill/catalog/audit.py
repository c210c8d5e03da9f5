"""The audit log: who did what to which object, written in the transaction of the act itself, so that one never stands without the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import select

from distill.catalog.models import AuditEntry
from distill.db import Listing, Page, Session, paginate
from distill.ids import new_id

Action = Literal[
    "api_key.created",
    "api_key.replaced",
    "api_key.revoked",
    "project.created",
    "project.changed",
    "project.deleted",
    "project.erased",
    "alias.moved",
    "alias.removed",
    "budget.changed",
    "connection.created",
    "connection.changed",
    "connection.deleted",
    "job.cancelled",
    "job.deleted",
    "job.erased",
    "artifact.deleted",
    "bundle.deleted",
    "dataset.deleted",
    "dataset.erased",
    "file.deleted",
    "metric.deleted",
    "model.deleted",
    "program.deleted",
    "retention.removed",
    "server.drained",
    "server.resumed",
    "session.started",
    "session.ended",
    "webhook_endpoint.created",
    "webhook_endpoint.deleted",
]

_BY = "key_id"


def acts(s: Session, key_id: str | None) -> None:
    """Who acts in this session; without it, the server's own command line."""
    s.info[_BY] = key_id


def who(s: Session) -> str | None:
    """Who acts in this session."""
    return s.info.get(_BY)


def record(
    s: Session, project_id: str, action: Action, object_id: str, data: Mapping[str, Any] | None = None, *, key_id: str | None = None
) -> str:
    """Something was done; the entry's id. `data` says what, without secrets. `key_id` is who did it, if not who acts in this session."""
    by = key_id or s.info.get(_BY)
    entry = AuditEntry(id=new_id("audit"), project_id=project_id, key_id=by, action=action, object_id=object_id, data=dict(data or {}))
    s.add(entry)
    s.flush()
    return entry.id


@dataclass(frozen=True, slots=True)
class Narrow:
    """By columns; what is None narrows nothing."""

    action: str | None = None
    object_id: str | None = None
    key_id: str | None = None


def list_entries(s: Session, project_id: str | None, page: Page, narrow: Narrow) -> Listing[AuditEntry]:
    """What was done in a project, or in all where it is None."""
    query = select(AuditEntry)
    if project_id is not None:
        query = query.where(AuditEntry.project_id == project_id)
    for name, wanted in asdict(narrow).items():
        query = query if wanted is None else query.where(getattr(AuditEntry, name) == wanted)
    return paginate(s, query, AuditEntry.id, page)
