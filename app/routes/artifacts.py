"""/v1/artifacts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import structlog
from fastapi import Path, Query, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from app.archive import archive
from app.auth import ArtifactUser, ModelUser, Reader, Writer
from app.calls import prepare, run
from app.deps import BODY_ERRORS, METADATA_QUERY, ArtifactId, ArtifactRef, SessionDep, TaggedPageDep, errors, router
from app.errors import ApiError
from app.idempotency import OncePaidDep
from app.schemas.common import Deleted, Page
from app.schemas.served import ArtifactRead, CallRead, CallRequest
from app.services import ServicesDep
from app.views.convert import page_of
from app.views.served import artifact_read
from distill.catalog import aliases, artifacts
from distill.db import unit_of_work
from distill.errors import StorageError

log = structlog.get_logger(__name__)
routes = router("artifacts")

FilePath = Annotated[str, Path(max_length=1024, examples=["README.md"])]


@routes.get("/artifacts", summary="List artifacts", openapi_extra=METADATA_QUERY)
def list_artifacts(
    caller: Reader,
    session: SessionDep,
    page: TaggedPageDep,
    program: Annotated[str | None, Query(description="Only of this `program_name`")] = None,
) -> Page[ArtifactRead]:
    """Newest first."""
    return page_of(artifacts.list_artifacts(session, caller.project_id, page, program), artifact_read)


@routes.get("/artifacts/{artifact_id}", summary="Read an artifact", responses=errors(404))
def get_artifact(artifact_id: ArtifactRef, caller: ArtifactUser, session: SessionDep) -> ArtifactRead:
    """Its files with their digests, its models and its scores."""
    return artifact_read(aliases.artifact(session, caller.project_id, artifact_id))


@routes.delete("/artifacts/{artifact_id}", summary="Delete an artifact", responses=errors(404, 409))
def delete_artifact(artifact_id: ArtifactId, caller: Writer, session: SessionDep) -> Deleted:
    """By its id. A conflict while an alias points at it, which is named; its models stay."""
    artifacts.delete(session, caller.project_id, artifact_id)
    return Deleted(id=artifact_id, object="artifact")


@routes.get(
    "/artifacts/{artifact_id}/content",
    summary="Download an artifact",
    response_class=Response,
    responses={**errors(404), 200: {"description": "A tar.gz of all files", "content": {"application/gzip": {}}}},
)
def artifact_content(artifact_id: ArtifactRef, caller: ArtifactUser, session: SessionDep, services: ServicesDep) -> StreamingResponse:
    """The bytes are the same at every download; check each file against the digests in the artifact."""
    row = aliases.artifact(session, caller.project_id, artifact_id)
    headers = {"content-disposition": f'attachment; filename="{row.name}-{row.id}.tar.gz"', "etag": f'"{row.digest}"'}
    with _whole(row.id):
        chunks = archive(services.store, row.files)
    return StreamingResponse(chunks, media_type="application/gzip", headers=headers)


@routes.get(
    "/artifacts/{artifact_id}/files/{path:path}",
    summary="Read one file of an artifact",
    response_class=Response,
    responses={**errors(404), 200: {"description": "The file", "content": {"application/octet-stream": {}}}},
)
def artifact_file(
    artifact_id: ArtifactRef,
    path: Annotated[str, Path(max_length=1024, examples=["README.md"])],
    caller: ArtifactUser,
    session: SessionDep,
    services: ServicesDep,
) -> FileResponse:
    """By its path inside the artifact."""
    row = aliases.artifact(session, caller.project_id, artifact_id)
    entry = row.files.get(path)
    if entry is None:
        raise ApiError(404, "file_not_found", f"The artifact has no such file; it has {', '.join(sorted(row.files))}.", param="path")
    headers = {"etag": f'"{entry["digest"]}"', "content-disposition": "attachment"}
    with _whole(row.id):
        place = services.store.path(entry["digest"])
    return FileResponse(place, media_type="application/octet-stream", headers=headers)


@contextmanager
def _whole(artifact_id: str) -> Iterator[None]:
    """Damage is told before the first byte goes out."""
    try:
        yield
    except StorageError as error:
        if error.code not in ("blob_damaged", "blob_missing"):
            raise
        log.error("artifact_corrupt", artifact=artifact_id, code=error.code, message=error.message)
        message = f"A file of {artifact_id} is damaged or lost in the blob store. The operator can restore it from a backup."
        raise ApiError(500, "artifact_corrupt", message) from error


@routes.post(
    "/artifacts/{artifact_id}/call",
    response_model=CallRead,
    summary="Run a compiled program",
    responses={**BODY_ERRORS, **errors(404, 409)},
)
async def call_artifact(
    artifact_id: ArtifactRef, body: CallRequest, caller: ModelUser, services: ServicesDep, once: OncePaidDep
) -> Response:
    """Inputs in, outputs out. 503 while one of its models is being loaded."""

    def call() -> Response:
        with unit_of_work("api") as session:
            prepared = prepare(session, services, caller.project_id, artifact_id, body.inputs)
        answer = run(services, caller.project_id, prepared, body.inputs)
        found = CallRead(artifact=prepared.artifact_id, outputs=answer["outputs"], usage=answer["usage"])
        return Response(found.model_dump_json(), media_type="application/json")

    return await once.reply(lambda: run_in_threadpool(call))
