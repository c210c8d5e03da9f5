"""What FastAPI does not see to: query parameters that a route does not declare, and those with brackets in their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.errors import OPENAI_SHAPED, ApiError
from app.schemas.rules import METADATA
from distill.spec_part import did_you_mean

_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)


async def check_names(request: Request) -> None:
    """A dependency of every route: raises ApiError 422 for a query parameter that it does not declare, since a filter that is passed over
    lets everything through. At OpenAI's addresses others are passed over, as its clients send some that mean nothing here."""
    path: str = request.url.path
    if not request.query_params or not path.startswith("/v1/") or path.startswith(OPENAI_SHAPED):
        return
    route: APIRoute = request.scope["route"]
    known = set(_declared(route.dependant))
    has_metadata = any(each["name"] == "metadata" for each in (route.openapi_extra or {}).get("parameters", ()))
    for name in request.query_params:
        if name not in known and not (has_metadata and _METADATA.fullmatch(name)):
            hint = did_you_mean(name, sorted(known | ({"metadata[key]"} if has_metadata else set())))
            raise ApiError(422, "unknown_parameter", f"unknown query parameter `{name[:64]}`{hint}", param=name[:64])


def _declared(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _declared(inner)


def metadata_parameter(description: str) -> dict[str, Any]:
    """The declaration of `metadata[k]=v`, as a route's `openapi_extra`."""
    pairs = {"type": "object", **METADATA, "propertyNames": {**METADATA["propertyNames"], "minLength": 1}}
    declared = {"name": "metadata", "in": "query", "style": "deepObject", "explode": True, "description": description, "schema": pairs}
    return {"parameters": [declared]}


def metadata_query(request: Request) -> dict[str, str]:
    """The `metadata[k]=v` pairs of the query string. Raises ApiError 422 when there are too many or one is too long."""
    pairs = {match[1]: value for name, value in request.query_params.items() if (match := _METADATA.fullmatch(name))}
    if len(pairs) > 16 or any(len(value) > 512 for value in pairs.values()):
        raise ApiError(422, "invalid_value", "metadata: at most 16 pairs, values of at most 512 characters", param="metadata")
    return pairs
