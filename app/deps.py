"""What routes ask for: the session, pages, a router with its declared errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request

from app import examples
from app.body import JsonRoute
from app.queries import metadata_parameter, metadata_query
from app.schemas.rules import ARTIFACT_REF
from distill.catalog import audit
from distill.db import Page, Session, unit_of_work
from distill.spec import ALIAS_NAME, LAST_SECOND


def _session(request: Request) -> Iterator[Session]:
    with unit_of_work("api") as session:
        caller = getattr(request.state, "caller", None)
        audit.acts(session, caller.key_id if caller else None)
        yield session


#: One request is one transaction. `scope="function"` commits it before the reply goes out, so a failed commit is no 2xx.
SessionDep = Annotated[Session, Depends(_session, scope="function")]


_ERROR_CONTENT = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
_DESCRIPTIONS = {
    400: "The body is not valid JSON",
    401: "No key, or one that is unknown, revoked or expired",
    403: "The key lacks the scope",
    404: "No such object in the key's project",
    408: "The body came too slowly",
    409: "The object's state forbids it, or the first request with this Idempotency-Key still runs",
    412: "The object was changed since it was read: `If-Match` names another state",
    413: "The body is too large",
    415: "The content type is not taken here",
    422: "The request breaks the schema or a rule; `param` and `details` name the place",
    429: "The key asks too often, or the project holds too much open; see Retry-After",
    500: "The server failed",
    503: "Cannot answer now; see Retry-After",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI declarations of a route's own errors, beside the common ones; their schema is added by `app.main.openapi`."""
    return {status: {"description": _DESCRIPTIONS[status], "content": _ERROR_CONTENT} for status in statuses}


COMMON_ERRORS = errors(401, 403, 422, 429, 500, 503)
BODY_ERRORS = errors(400, 408, 413, 415)


def router(tag: str) -> APIRouter:
    """A router of one noun under /v1, with strict JSON bodies."""
    return APIRouter(prefix="/v1", tags=[tag], route_class=JsonRoute, responses=COMMON_ERRORS)


_ORDER = "By creation. `asc` is no way to wait for what is new: what is committed late may stand before `after`; see `created_after`"


def _page(
    limit: Annotated[int, Query(ge=1, le=100, description="At most so many")] = 20,
    after: Annotated[str | None, Query(max_length=256, description="The last id of the page before")] = None,
    order: Annotated[Literal["asc", "desc"], Query(description=_ORDER)] = "desc",
) -> Page:
    return Page(limit, after, order)


#: Keyset: ids sort by creation, so a page is stable while rows are added.
PageDep = Annotated[Page, Depends(_page)]


def _recent(
    page: PageDep,
    created_after: Annotated[int | None, Query(ge=0, le=LAST_SECOND, description="Only what was made after it, in Unix seconds")] = None,
) -> Page:
    return page if created_after is None else replace(page, created_after=datetime.fromtimestamp(created_after, UTC))


def _tagged(request: Request, page: Annotated[Page, Depends(_recent)]) -> Page:
    return replace(page, metadata=metadata_query(request))


#: Of objects with a time of creation; and of those that have metadata besides, whose routes declare METADATA_QUERY.
RecentPageDep = Annotated[Page, Depends(_recent)]
TaggedPageDep = Annotated[Page, Depends(_tagged)]
METADATA_QUERY = metadata_parameter("`metadata[key]=value`: only those with this pair")


def _id(example: str, description: str | None = None, form: str | None = None) -> Any:
    """Ids are looked up as they are; the pattern only keeps out what no id can hold. `form` is declared alone, and checked by the route."""
    declared = None if form is None else {"pattern": form}
    return Path(pattern=r"^[!-~]+$", max_length=256, description=description, examples=[example], json_schema_extra=declared)


DryRun = Annotated[bool, Query(description="Say what would be removed and what is in the way; remove nothing")]
Cascade = Annotated[Literal["artifacts"] | None, Query(description="`artifacts`: delete artifacts and models that came from it, too")]

JobId = Annotated[str, _id(examples.JOB)]
FineTuningJobId = Annotated[str, _id(examples.FINE_TUNING_JOB)]
FileId = Annotated[str, _id(examples.FILE)]
ProgramId = Annotated[str, _id(examples.PROGRAM)]
BundleId = Annotated[str, _id(examples.BUNDLE)]
MetricId = Annotated[str, _id(examples.METRIC)]
DatasetRef = Annotated[str, _id(examples.DATASET, "`ds-…`, `name@v3` or `name@latest`")]
ArtifactId = Annotated[str, _id(examples.ARTIFACT)]
ArtifactRef = Annotated[str, _id(examples.ARTIFACT, "`art-…`, or `program_name@alias`", ARTIFACT_REF)]
AliasName = Annotated[str, _id(examples.ALIAS, "`program_name@alias`", ALIAS_NAME)]
ModelId = Annotated[str, Path(max_length=256, examples=[examples.MODEL])]
ConnectionId = Annotated[str, _id(examples.CONNECTION)]
KeyId = Annotated[str, _id(examples.KEY)]
ProjectRef = Annotated[str, _id(examples.PROJECT, "Its name, or `proj-…`")]
EndpointId = Annotated[str, _id(examples.ENDPOINT)]
DeliveryId = Annotated[str, _id(examples.DELIVERY)]
