"""/v1/audit_log."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from app.auth import Admin
from app.deps import RecentPageDep, SessionDep, router
from app.schemas.account import AuditRead
from app.schemas.common import Page
from app.views.account import audit_read
from app.views.convert import page_of
from distill.catalog import audit

routes = router("account")

_Text = Annotated[str | None, Query(max_length=256)]


@routes.get("/audit_log", summary="Who did what")
def list_audit_log(
    caller: Admin, session: SessionDep, page: RecentPageDep, action: _Text = None, object_id: _Text = None, key_id: _Text = None
) -> Page[AuditRead]:
    """Newest first: keys made and revoked, aliases moved, budgets changed, jobs cancelled, things deleted. An entry is written in the
    transaction of the act itself."""
    return page_of(audit.list_entries(session, caller.project_id, page, audit.Narrow(action, object_id, key_id)), audit_read)
