"""/v1/bundles: users' own Python. It is kept as text here; only runners open it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response
from fastapi.responses import FileResponse

from app.auth import Reader, Writer
from app.body import JSON_TYPE
from app.bundled import check_taken
from app.deps import BODY_ERRORS, BundleId, RecentPageDep, SessionDep, errors, router
from app.idempotency import Made, OnceDep
from app.schemas.bundles import BundleCreate, BundleRead, Identity
from app.schemas.common import Deleted, Page
from app.services import ServicesDep
from app.views.bundles import bundle_read
from app.views.convert import page_of
from distill.catalog import bundles
from distill.jobs import bundle_use, quotas

routes = router("bundles")


@routes.post("/bundles", status_code=201, response_model=BundleRead, summary="Send Python code", responses={**BODY_ERRORS, **errors(409)})
def create_bundle(body: BundleCreate, caller: Writer, session: SessionDep, once: OnceDep, services: ServicesDep) -> Response:
    """The same document again is the same bundle. It is not opened here: a program or metric that names it is described in a sandbox."""
    bundle = bundles.read_bundle(body.document())
    check_taken(services, bundle.python, bundle.packages)

    def make(blob: str) -> Made:
        row = bundles.ensure(session, services.store, caller.project_id, caller.key_id, bundle, blob)
        quotas.check_blobs(session, caller.project_id)
        return Made(bundle_read(row), f"/v1/bundles/{row.id}")

    return once.reply_after(lambda: services.store.put(bundle.text.encode()), make)


@routes.get("/bundles", summary="List bundles")
def list_bundles(
    caller: Reader, session: SessionDep, page: RecentPageDep, identity: Annotated[Identity | None, Query()] = None
) -> Page[BundleRead]:
    """Newest first."""
    return page_of(bundles.list_bundles(session, caller.project_id, page, identity), bundle_read)


@routes.get("/bundles/{bundle_id}", summary="Read about a bundle", responses=errors(404))
def get_bundle(bundle_id: BundleId, caller: Reader, session: SessionDep) -> BundleRead:
    """Its modules, what it needs, and its digest."""
    return bundle_read(bundles.get(session, caller.project_id, bundle_id))


@routes.get(
    "/bundles/{bundle_id}/content",
    summary="Download a bundle",
    response_class=Response,
    responses={**errors(404), 200: {"description": "The document", "content": {JSON_TYPE: {"schema": {"type": "object"}}}}},
)
def bundle_content(bundle_id: BundleId, caller: Reader, session: SessionDep, services: ServicesDep) -> FileResponse:
    """The document as it is stored: the project's own code."""
    row = bundles.get(session, caller.project_id, bundle_id)
    headers = {"etag": f'"{row.digest}"'}
    return FileResponse(services.store.path(row.blob), filename=f"{row.id}.json", media_type=JSON_TYPE, headers=headers)


@routes.delete("/bundles/{bundle_id}", summary="Delete a bundle", responses=errors(404, 409))
def delete_bundle(bundle_id: BundleId, caller: Writer, session: SessionDep) -> Deleted:
    """Programs, metrics and artifacts made of it cannot run any more. Refused while a job that is not over needs it."""
    bundle_use.remove(session, caller.project_id, bundle_id)
    return Deleted(id=bundle_id, object="bundle")
