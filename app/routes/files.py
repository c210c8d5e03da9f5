"""/v1/files, OpenAI-shaped: what fine-tuning jobs read their rows from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse

from app.auth import Reader, Writer
from app.deps import BODY_ERRORS, COMMON_ERRORS, FileId, RecentPageDep, SessionDep, errors, router
from app.errors import ApiError
from app.idempotency import Made, OnceDep
from app.schemas.common import Page
from app.schemas.files import FileDeleted, FileRead
from app.services import ServicesDep
from app.uploads import FormFile, FormFileDep
from app.views.convert import page_of
from app.views.files import file_read
from distill.catalog import files
from distill.jobs import quotas
from distill.spec_part import did_you_mean

PURPOSE = "fine-tune"

#: The form is read as a stream by `FormFileDep`, so OpenAPI is told here what it holds.
_BODY: Mapping[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"const": PURPOSE}},
                },
                "example": {"file": "@conversations.jsonl", "purpose": PURPOSE},
            }
        },
    }
}

uploads = APIRouter(prefix="/v1", tags=["OpenAI-shaped"], responses=COMMON_ERRORS)
routes = router("OpenAI-shaped")


@uploads.post(
    "/files", response_model=FileRead, summary="Upload a file", responses={**BODY_ERRORS, **errors(409)}, openapi_extra=dict(_BODY)
)
def create_file(caller: Writer, form: FormFileDep, session: SessionDep, services: ServicesDep, once: OnceDep) -> Response:
    """JSONL for a fine-tuning job. It is kept as it is; the job that is given it checks it row by row."""
    _check(form)

    def make(digest: str) -> Made:
        row = files.add(
            session, services.store, caller.project_id, digest, filename=form.filename, purpose=PURPOSE, created_by=caller.key_id
        )
        quotas.check_blobs(session, caller.project_id)
        return Made(file_read(row), f"/v1/files/{row.id}", 200)

    return once.reply_after(lambda: services.store.put(form.file), make, form.digest)


def _check(form: FormFile) -> None:
    for name in form.fields:
        if name != "purpose":
            hint = did_you_mean(name, ["purpose", "file"])
            raise ApiError(400, "unknown_option", f"{name[:64]}: this server knows no such field of a file{hint}", param=name[:64])
    if "purpose" not in form.fields:
        raise ApiError(400, "missing_field", f"purpose: say `{PURPOSE}`", param="purpose")
    if form.fields["purpose"] != PURPOSE:
        raise ApiError(400, "unsupported", f"purpose: this server takes files for `{PURPOSE}` alone", param="purpose")


@routes.get("/files", summary="List files")
def list_files(
    caller: Reader,
    session: SessionDep,
    page: RecentPageDep,
    purpose: Annotated[str | None, Query(max_length=64, description="Only of this purpose")] = None,
) -> Page[FileRead]:
    """Newest first."""
    return page_of(files.list_files(session, caller.project_id, page, purpose), file_read)


@routes.get("/files/{file_id}", summary="Read about a file", responses=errors(404))
def get_file(file_id: FileId, caller: Reader, session: SessionDep) -> FileRead:
    """Its name, size and purpose."""
    return file_read(files.get(session, caller.project_id, file_id))


@routes.delete("/files/{file_id}", summary="Delete a file", responses=errors(404))
def delete_file(file_id: FileId, caller: Writer, session: SessionDep) -> FileDeleted:
    """Jobs that were given it go on."""
    files.delete(session, caller.project_id, file_id)
    return FileDeleted(id=file_id)


@routes.get(
    "/files/{file_id}/content",
    summary="Download a file",
    response_class=Response,
    responses={**errors(404), 200: {"description": "The bytes as they were sent", "content": {"application/octet-stream": {}}}},
)
def file_content(file_id: FileId, caller: Reader, session: SessionDep, services: ServicesDep) -> FileResponse:
    """The bytes as they were sent."""
    row = files.get(session, caller.project_id, file_id)
    headers = {"etag": f'"{row.digest}"'}
    return FileResponse(services.store.path(row.digest), filename=row.filename, media_type="application/octet-stream", headers=headers)
