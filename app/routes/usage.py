"""/v1/usage."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query

from app.auth import JobViewer
from app.deps import RecentPageDep, SessionDep, router
from app.operating import EVERY_PROJECT, ProjectQuery, chosen_project, chosen_project_id
from app.schemas.account import UsageByKeyRead, UsageRead
from app.schemas.common import Page
from app.views.account import usage_by_key_read, usage_read
from app.views.convert import page_of
from distill.catalog import projects
from distill.catalog.models import Project
from distill.db import Session, now
from distill.jobs import quotas
from distill.jobs.quotas import Month
from distill.jobs.usage_by_key import usage_by_key

routes = router("account")

MonthQuery = Annotated[str | None, Query(pattern=r"^20\d\d-(0[1-9]|1[0-2])$", description="YYYY-MM, of UTC; this month unless given")]


def _month(session: Session, month: str | None) -> Month:
    return Month.of(now(session) if month is None else datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC))


@routes.get("/usage", summary="What the project has used in a month")
def get_usage(
    caller: JobViewer,
    session: SessionDep,
    month: MonthQuery = None,
    project: ProjectQuery = None,
) -> UsageRead:
    """Jobs, rollouts, calls, tokens, teacher money and compute-seconds, with the quotas that they count against and when those reset."""
    return _usage(session, chosen_project(session, caller, project), _month(session, month))


def _usage(session: Session, project: Project, of: Month) -> UsageRead:
    open_jobs, blob_bytes = quotas.open_jobs(session, project.id), quotas.blob_bytes(session, project.id)
    return usage_read(project, quotas.usage(session, project.id, of), open_jobs, blob_bytes)


@routes.get("/usage/projects", summary="What every project has used in a month")
def get_usage_by_project(caller: JobViewer, session: SessionDep, page: RecentPageDep, month: MonthQuery = None) -> Page[UsageRead]:
    """For operators all projects, newest first; for others their own alone. `after` takes the id of a project."""
    of = _month(session, month)
    found = projects.list_projects(session, page, None if caller.operates else caller.project_id)
    return page_of(found, lambda project: _usage(session, project, of), lambda used: used.project_id)


@routes.get("/usage/keys", summary="Who used what in the last days")
def get_usage_by_key(
    caller: JobViewer,
    session: SessionDep,
    days: Annotated[int, Query(ge=1, le=366, description="Up to now")] = 7,
    project: ProjectQuery = None,
) -> UsageByKeyRead:
    """By the API key that made the jobs: jobs, calls, tokens, teacher money and compute-seconds."""
    chosen = chosen_project_id(session, caller, project)
    name = EVERY_PROJECT if chosen is None else projects.get(session, chosen).name
    since, found = usage_by_key(session, chosen, days)
    return usage_by_key_read(name, since, found)
