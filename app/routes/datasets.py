"""/v1/datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import TypeAdapter

from app import examples
from app.auth import Reader, Writer
from app.deps import BODY_ERRORS, COMMON_ERRORS, METADATA_QUERY, Cascade, DatasetRef, DryRun, SessionDep, TaggedPageDep, errors, router
from app.idempotency import Made, OnceDep
from app.queries import metadata_parameter, metadata_query
from app.schemas.common import Deletion, Name, Page
from app.schemas.datasets import DatasetCreate, DatasetRead, DatasetRow, DatasetRows
from app.services import ServicesDep
from app.uploads import Told, UploadDep, opened
from app.views.convert import page_of
from app.views.datasets import dataset_read
from app.views.deletions import deletion_read, outlook_read
from distill.catalog import datasets
from distill.jobs import erasing, quotas

routes = router("datasets")

#: The body is read as a stream by `UploadDep`, so OpenAPI is told here what it may be.
_BODY: Mapping[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": DatasetCreate.model_json_schema(ref_template="#/components/schemas/{model}"),
                "example": examples.UPLOAD,
            },
            "application/jsonl": {"schema": {"type": "string"}, "example": examples.JSONL},
            "text/csv": {"schema": {"type": "string"}, "example": examples.CSV},
            "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}, "name": TypeAdapter(Name).json_schema()},
                },
                # Or the file's name ends as its format is called.
                "encoding": {"file": {"contentType": "application/jsonl, text/csv, application/vnd.apache.parquet"}},
                "example": {"file": "@support-train.csv", "name": "support-train"},
            },
        },
    }
}

_UPLOAD = {**_BODY, **metadata_parameter("`metadata[key]=value`: a pair that the dataset is to have")}

uploads = APIRouter(prefix="/v1", tags=["datasets"], responses=COMMON_ERRORS)


@uploads.put("/datasets", status_code=201, response_model=DatasetRead, include_in_schema=False, openapi_extra=_UPLOAD)
@uploads.post(
    "/datasets",
    status_code=201,
    response_model=DatasetRead,
    summary="Upload a dataset",
    responses={**BODY_ERRORS, **errors(409)},
    openapi_extra=_UPLOAD,
)
def create_dataset(
    request: Request,
    caller: Writer,
    upload: UploadDep,
    session: SessionDep,
    services: ServicesDep,
    once: OnceDep,
    name: Annotated[Name | None, Query(description="With a name it is that name's next version")] = None,
) -> Response:
    """Rows as JSONL, CSV (cells are read by the types of the program's fields), Parquet, JSON, or a file in a multipart form.

    A PUT does the same: it is what `curl -T file` sends.
    """
    asked = Told(name, metadata_query(request))

    def write() -> tuple[Told, datasets.Written]:
        told, rows = opened(upload)
        all_told = Told(asked.name or told.name, {**told.metadata, **asked.metadata})
        datasets.check_name(all_told.name)
        return all_told, datasets.write(services.store, rows, upload.format)

    def make(found: tuple[Told, datasets.Written]) -> Made:
        told, written = found
        row = datasets.add(
            session,
            services.store,
            caller.project_id,
            written,
            created_by=caller.key_id,
            name=told.name,
            metadata=told.metadata,
        )
        quotas.check_blobs(session, caller.project_id)
        return Made(dataset_read(row), f"/v1/datasets/{row.id}")

    return once.reply_after(write, make, upload.digest)


@routes.get("/datasets", summary="List datasets", openapi_extra=METADATA_QUERY)
def list_datasets(
    caller: Reader,
    session: SessionDep,
    page: TaggedPageDep,
    name: Annotated[str | None, Query(description="Only versions of this name")] = None,
) -> Page[DatasetRead]:
    """Newest first; also the unnamed ones that jobs with inline rows made."""
    return page_of(datasets.list_datasets(session, caller.project_id, page, name), dataset_read)


@routes.get("/datasets/{dataset_id}", summary="Read a dataset", responses=errors(404))
def get_dataset(dataset_id: DatasetRef, caller: Reader, session: SessionDep) -> DatasetRead:
    """By id, `name@v3` or `name@latest`."""
    return dataset_read(datasets.resolve(session, caller.project_id, dataset_id, param="id"))


@routes.delete("/datasets/{dataset_id}", summary="Delete a dataset", responses=errors(404, 409))
def delete_dataset(
    dataset_id: DatasetRef,
    caller: Writer,
    session: SessionDep,
    services: ServicesDep,
    dry_run: DryRun = False,
    cascade: Cascade = None,
) -> Deletion:
    """Its rows go, and what came from them: traces, scores, training files, the events and details of its jobs. Within a minute nothing of
    it is left, which the audit log then says (`dataset.erased`). Artifacts and models stay unless `cascade=artifacts` is given. A conflict
    while a job of it is not over, or an alias points at an artifact that would go. `name@latest` is for `dry_run` alone: say the id or
    `name@v3`."""
    if dry_run:
        found = erasing.look_at_dataset(session, services.store, caller.project_id, dataset_id, with_artifacts=cascade is not None)
        return outlook_read(found, "dataset")
    erasing.delete_dataset(session, caller.project_id, dataset_id, with_artifacts=cascade is not None)
    return deletion_read(dataset_id, "dataset")


@routes.get("/datasets/{dataset_id}/rows", summary="Read rows of a dataset", responses=errors(404))
def dataset_rows(
    dataset_id: DatasetRef,
    caller: Reader,
    session: SessionDep,
    services: ServicesDep,
    start: Annotated[int, Query(ge=1, description="First row, counted from 1")] = 1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> DatasetRows:
    """Rows in their own order, numbered from 1."""
    row = datasets.resolve(session, caller.project_id, dataset_id, param="id")
    found = datasets.rows(services.store, row, start - 1, start - 1 + limit)
    data = [DatasetRow(row=number, data=values) for number, values in enumerate(found, start=start)]
    end = start + len(data)
    more = end <= row.row_count
    return DatasetRows(data=data, has_more=more, next_row=end if more else None)
