"""/v1/programs and the schema of a spec."""

from __future__ import annotations

from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from app.auth import AnyCaller, Reader, Writer
from app.deps import BODY_ERRORS, METADATA_QUERY, ProgramId, SessionDep, TaggedPageDep, errors, router
from app.hosting import Preview, answered, hosted_for_render, preview
from app.idempotency import Made, OnceDep
from app.references import program_spec
from app.schemas.common import Deleted, Page
from app.schemas.programs import CODE_NOTE, ProgramCreate, ProgramMade, ProgramRead, RenderRead, RenderRequest
from app.services import ServicesDep
from app.views.convert import page_of
from app.views.programs import program_made, program_read, rendered
from distill.catalog import bundles, programs
from distill.db import unit_of_work
from stillhouse_programs.spec import ProgramSpec

routes = router("programs")


@routes.post(
    "/programs",
    status_code=201,
    response_model=ProgramMade,
    summary="Store a program: a spec, or a reference to code",
    responses={**BODY_ERRORS, **errors(409)},
)
def create_program(body: ProgramCreate, caller: Writer, session: SessionDep, once: OnceDep, services: ServicesDep) -> Response:
    """The same spec again is the same program: one project holds a spec once. A bare spec is taken as the body too.

    `reference` names a program of a package that is installed on the server and allowed there, or of a `bundle`: it is made once to
    describe it.
    The reply shows what will be sent: the prompts of all predictors. No LM is called.
    """

    def read() -> tuple[ProgramSpec, Preview]:
        spec = program_spec(services, caller.project_id, body.program(), body.place)
        return spec, preview(services, caller.project_id, spec)

    def make(shown: tuple[ProgramSpec, Preview]) -> Made:
        row = programs.ensure(session, caller.project_id, caller.key_id, shown[0], name=body.name, metadata=body.metadata)
        return Made(program_made(row, shown[1]), f"/v1/programs/{row.id}")

    return once.reply_after(read, make)


@routes.get("/programs", summary="List programs", openapi_extra=METADATA_QUERY)
def list_programs(caller: Reader, session: SessionDep, page: TaggedPageDep) -> Page[ProgramRead]:
    """Newest first."""
    return page_of(programs.list_programs(session, caller.project_id, page), program_read)


@routes.get("/programs/{program_id}", summary="Read a program", responses=errors(404))
def get_program(program_id: ProgramId, caller: Reader, session: SessionDep) -> ProgramRead:
    """The spec in its canonical form: sugar and defaults written out."""
    return program_read(programs.get(session, caller.project_id, program_id))


@routes.delete("/programs/{program_id}", summary="Delete a program", responses=errors(404))
def delete_program(program_id: ProgramId, caller: Writer, session: SessionDep) -> Deleted:
    """Jobs that used it keep it."""
    programs.delete(session, caller.project_id, program_id)
    return Deleted(id=program_id, object="program")


@routes.post("/programs/{program_id}/render", summary="Show the prompts of a program", responses={**BODY_ERRORS, **errors(404)})
def render_program(program_id: ProgramId, body: RenderRequest, caller: Reader, services: ServicesDep) -> RenderRead:
    """The messages each predictor would send for these inputs. No LM is called."""
    with unit_of_work("api") as session:
        row = programs.get(session, caller.project_id, program_id)
        spec = programs.spec_of(row)
        python = bundles.python_of(session, caller.project_id, {"program": bundles.bundle_of(spec)})
    hosted = hosted_for_render(row.digest, spec, body.prompt_adapter, python)
    messages = answered(lambda: services.program_host.render(caller.project_id, hosted, body.inputs))
    return RenderRead(program=row.id, calls=rendered(messages), note=CODE_NOTE if spec.code else None)


@routes.get("/spec/schema.json", summary="The JSON schema of a program spec", response_class=JSONResponse)
def spec_schema(_: AnyCaller) -> JSONResponse:
    """Version 1."""
    schema: dict[str, Any] = ProgramSpec.model_json_schema(by_alias=True)
    return JSONResponse({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
