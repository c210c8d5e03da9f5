"""Query parameters with brackets in their names: `metadata[git_sha]=9f1`; FastAPI does not declare them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastapi import Request

from app.errors import ApiError

_METADATA = re.compile(r"metadata\[(.{1,64})\]")


def metadata_parameter(description: str) -> dict[str, Any]:
    """The declaration of `metadata[k]=v`, as a route's `openapi_extra`."""
    pairs: Mapping[str, Any] = {"type": "object", "maxProperties": 16, "additionalProperties": {"type": "string", "maxLength": 512}}
    declared = {"name": "metadata", "in": "query", "style": "deepObject", "explode": True, "description": description, "schema": pairs}
    return {"parameters": [declared]}


def metadata_query(request: Request) -> dict[str, str]:
    """The `metadata[k]=v` pairs of the query string. Raises ApiError 422 when there are too many or one is too long."""
    pairs = {match[1]: value for name, value in request.query_params.items() if (match := _METADATA.fullmatch(name))}
    if len(pairs) > 16 or any(len(value) > 512 for value in pairs.values()):
        raise ApiError(422, "invalid_value", "metadata: at most 16 pairs, values of at most 512 characters", param="metadata")
    return pairs
