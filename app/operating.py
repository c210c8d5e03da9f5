"""What operators may see and act on in projects other than their key's own: jobs, usage and the audit log, never rows or traces."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from app.compose import naming_no_path
from distill.catalog import projects
from distill.catalog.keys import Caller
from distill.catalog.models import Project
from distill.db import Session, unit_of_work
from distill.errors import Invalid
from distill.jobs import repository

EVERY_PROJECT = "*"
ProjectQuery = Annotated[
    str | None, Query(max_length=128, description="A project's name or id, or `*` for all; other than the key's own for operators alone")
]


def projects_seen(session: Session, caller: Caller) -> dict[str, str]:
    """Names of the projects whose jobs the caller may see, by id."""
    return projects.names(session) if caller.operates else {caller.project_id: caller.project_name}


def project_of_job(session: Session, caller: Caller, job_id: str) -> str:
    """The id of the project in which the caller looks for a job: an operator finds those of all projects."""
    found = repository.project_of(session, job_id) if caller.operates else None
    return found or caller.project_id


def project_now(caller: Caller, job_id: str) -> str:
    """As `project_of_job`, in a transaction of its own."""
    with unit_of_work("api") as session:
        return project_of_job(session, caller, job_id)


def chosen_project(session: Session, caller: Caller, project: str | None) -> Project:
    """The project that a request names, else the key's own. Raises Invalid."""
    if project is None or project in (caller.project_name, caller.project_id):
        return projects.get(session, caller.project_id)
    if project == EVERY_PROJECT and caller.operates:
        raise Invalid("project: name one; GET /v1/usage/projects has the usage of each", param="project")
    if not caller.operates:
        raise Invalid(f"project: this key belongs to project {caller.project_name}", code="wrong_project", param="project")
    with naming_no_path():
        return projects.get(session, project)


def chosen_project_id(session: Session, caller: Caller, project: str | None) -> str | None:
    """As `chosen_project`; None for all projects, which `*` means."""
    if project == EVERY_PROJECT and caller.operates:
        return None
    return chosen_project(session, caller, project).id
