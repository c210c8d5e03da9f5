"""/v1/projects."""

from __future__ import annotations

from fastapi import Response

from app.auth import Admin, AnyCaller, Operator
from app.deps import BODY_ERRORS, METADATA_QUERY, ProjectRef, SessionDep, TaggedPageDep, errors, router
from app.idempotency import Made, OnceDep
from app.schemas.account import ProjectCreate, ProjectRead, ProjectUpdate
from app.schemas.common import Page
from app.views.account import project_read
from app.views.convert import page_of
from distill.catalog import projects
from distill.errors import NotFound, PermissionDenied
from distill.jobs import caps

routes = router("account")


@routes.post("/projects", status_code=201, response_model=ProjectRead, summary="Make a project", responses={**BODY_ERRORS, **errors(409)})
def create_project(body: ProjectCreate, caller: Admin, session: SessionDep, once: OnceDep) -> Response:
    """For operators: admins of the project `default`. Its first key is made by one of them, with `project` in `POST /v1/api_keys`."""
    if not caller.makes_projects:
        raise PermissionDenied(f"Only admins of the project `{projects.OPERATORS}` make projects.", code="not_an_operator")

    def make() -> Made:
        row = projects.create(session, body.name, metadata=body.metadata)
        return Made(project_read(row), f"/v1/projects/{row.id}")

    return once.reply(make)


@routes.patch("/projects/{project}", summary="Change what a project may use", responses={**BODY_ERRORS, **errors(404)})
def update_project(project: ProjectRef, body: ProjectUpdate, caller: Operator, session: SessionDep) -> ProjectRead:
    """For operators. It holds at once, in every process; jobs that run already go on. The settings give what was never set here."""
    found = projects.get(session, project)
    return project_read(caps.change_limits(session, found.id, body.model_dump(exclude_unset=True)))


@routes.get("/projects", summary="List projects", openapi_extra=METADATA_QUERY)
def list_projects(caller: AnyCaller, session: SessionDep, page: TaggedPageDep) -> Page[ProjectRead]:
    """The key's own; an operator sees all, newest first."""
    return page_of(projects.list_projects(session, page, None if caller.operates else caller.project_id), project_read)


@routes.get("/projects/{project}", summary="Read a project", responses=errors(404))
def get_project(project: ProjectRef, caller: AnyCaller, session: SessionDep) -> ProjectRead:
    """By name or id. To all but operators, another project is not found."""
    if not caller.operates and project not in (caller.project_id, caller.project_name):
        raise NotFound(f"no project {project}", code="project_not_found", param="project")
    return project_read(projects.get(session, project))
