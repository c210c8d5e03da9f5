"""/v1/audit_log."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from app.auth import AuditReader
from app.deps import RecentPageDep, SessionDep, router
from app.operating import ProjectQuery, chosen_project_id, projects_seen
from app.schemas.account import AuditRead
from app.schemas.common import Page
from app.views.account import audit_read
from app.views.convert import page_of
from distill.catalog import audit

routes = router("account")

_Text = Annotated[str | None, Query(max_length=256)]


@routes.get("/audit_log", summary="Who did what")
def list_audit_log(
    caller: AuditReader,
    session: SessionDep,
    page: RecentPageDep,
    action: _Text = None,
    object_id: _Text = None,
    key_id: _Text = None,
    project: ProjectQuery = None,
) -> Page[AuditRead]:
    """Newest first: keys made and revoked, aliases moved, budgets changed, jobs cancelled, things deleted. An entry is written in the
    transaction of the act itself."""
    found = audit.list_entries(session, chosen_project_id(session, caller, project), page, audit.Narrow(action, object_id, key_id))
    seen = projects_seen(session, caller)
    return page_of(found, lambda entry: audit_read(entry, seen[entry.project_id]))
