"""/v1/projects."""

from __future__ import annotations

from fastapi import Response

from app.auth import Admin, AnyCaller, Operator
from app.deps import BODY_ERRORS, METADATA_QUERY, DryRun, ProjectRef, SessionDep, TaggedPageDep, errors, router
from app.idempotency import Made, OnceDep
from app.schemas.account import ProjectCreate, ProjectRead, ProjectUpdate
from app.schemas.common import Deletion, Page
from app.views.account import project_read
from app.views.convert import page_of
from app.views.deletions import deletion_read, outlook_read
from distill.catalog import projects
from distill.catalog.keys import Caller
from distill.errors import NotFound, PermissionDenied
from distill.jobs import caps, erasing

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
    _check_seen(caller, project)
    return project_read(projects.get(session, project))


@routes.delete("/projects/{project}", summary="Delete a project", responses=errors(404, 409))
def delete_project(project: ProjectRef, caller: Admin, session: SessionDep, dry_run: DryRun = False) -> Deletion:
    """With all it has: keys, jobs, data, artifacts, models, connections, webhooks, usage. For operators. Its keys end at once; within a
    minute of its LM hosts having unloaded its models nothing of it is left, which the operators' audit log then says (`project.erased`).
    A conflict while a job of it is not over."""
    _check_seen(caller, project)
    if not caller.makes_projects:
        raise PermissionDenied(f"Only admins of the project `{projects.OPERATORS}` delete projects.", code="not_an_operator")
    if dry_run:
        return outlook_read(erasing.look_at_project(session, project), "project")
    return deletion_read(erasing.delete_project(session, project), "project")


def _check_seen(caller: Caller, project: str) -> None:
    """Raises NotFound."""
    if not caller.operates and project not in (caller.project_id, caller.project_name):
        raise NotFound(f"no project {project}", code="project_not_found", param="project")
