"""One error shape for every reply, and the table from our errors to HTTP.

    ApiError                        raised by this package; carries its own status
    distill.errors.StillhouseError  raised by the services; its status is in STATUSES
    RequestValidationError          FastAPI's 422, rewritten so that no input is echoed
    starlette HTTPException         404 and 405 of the router

The body is always ``{"error": {message, type, code, param, request_id, details?}}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

import structlog
from asgi_correlation_id import correlation_id
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from distill import errors as house
from distill.db import CommitUnknown, is_outage, is_unstorable
from distill.spec_faults import in_words

log = structlog.get_logger(__name__)

TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "quota_exceeded",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "conflict_error",
    412: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}

#: The nearest class of the error's own ancestry decides.
STATUSES: Mapping[type[house.StillhouseError], int] = {
    house.Invalid: 422,
    house.NotFound: 404,
    house.Conflict: 409,
    house.Stale: 412,
    house.LostLease: 409,
    house.PermissionDenied: 403,
    house.Unauthenticated: 401,
    house.LimitExceeded: 429,
    house.Unavailable: 503,
    house.StorageUnavailable: 503,
    house.StillhouseError: 500,
}

MAX_DETAILS = 100
CLIENT_LEFT = 499
"""What the figures count a request as whose client left before it was read: no fault, and nobody gets the reply. nginx has the number."""


class ApiError(Exception):
    """A refusal with its HTTP status; `details` holds at most MAX_DETAILS rows of ``{row, field, message}``.

    `kind` is its `type`, where the status does not say it.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        details: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind or TYPES.get(status, "server_error")
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.details = list(details)[:MAX_DETAILS]
        self.headers = dict(headers or {})


UNEXPECTED = ApiError(500, "internal_error", "The server failed. Its log has the cause under this request id.")

UNSTORABLE = ApiError(422, "invalid_value", "A text holds the character NUL, or a number is too large to be stored.")
NO_DATABASE = ApiError(503, "database_unavailable", "The database does not answer. Try again.", headers={"retry-after": "2"})
MAYBE_DONE = ApiError(
    503,
    "database_unavailable",
    "The database was lost while this was stored: it is there as a whole or not at all. Send it again with the same Idempotency-Key.",
    headers={"retry-after": "2"},
)


OPENAI_SHAPED = ("/v1/files", "/v1/fine_tuning/", "/v1/chat/", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/models")
"""Where OpenAI's clients look: what breaks a rule is 400 there, as they expect, and 422 elsewhere."""


def status_at(status: int, path: str) -> int:
    """The status of a reply at a path."""
    return 400 if status == 422 and path.startswith(OPENAI_SHAPED) else status


def error_response(error: ApiError, path: str) -> JSONResponse:
    """The one place that builds an error body."""
    body: dict[str, Any] = {
        "message": error.message,
        "type": error.kind,
        "code": error.code,
        "param": error.param,
        "request_id": correlation_id.get(),
    }
    if error.details:
        body["details"] = error.details
    return JSONResponse({"error": body}, status_code=status_at(error.status, path), headers=error.headers)


#: What pydantic puts into a location to name a branch of a union; a client never sent it.
_BRANCH = re.compile(r"str|int|float|bool|(constrained|function)-.*|(literal|dict|list|tagged-union|nullable)\[.*|[A-Z]\w+(In|Create|Body)")


def json_path(location: Sequence[str | int]) -> str | None:
    """``("body", "trainset", 2, "message")`` → ``trainset[2].message``; names of union branches are left out."""
    path = ""
    for part in location[1:]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not _BRANCH.fullmatch(part):
            path += f".{part}" if path else part
    return path or None


def _safe_message(error: Mapping[str, Any]) -> str:
    """pydantic's sentence: it names types and bounds. The two kinds that repeat what was sent are replaced."""
    if error["type"] in {"union_tag_invalid", "json_invalid"}:
        return "is not one of the kinds this field takes"
    message = in_words(error["type"], str(error["msg"]), error.get("ctx", {})).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _location(error: Mapping[str, Any]) -> list[str | int]:
    location = list(error["loc"])
    return [*location, error["ctx"]["key"]] if error["type"] == "unknown_key" else location


def _faults(error: RequestValidationError) -> dict[str | None, list[str]]:
    """Path → what is wrong there. A union reports each branch: those of one path are one fault, and the deepest path is first."""
    faults: dict[str | None, list[str]] = {}
    for one in sorted(error.errors(), key=lambda e: -len(e["loc"])):
        messages = faults.setdefault(json_path(_location(one)), [])
        if (message := _safe_message(one)) not in messages:
            messages.append(message)
    return faults


#: The same codes as `distill.spec.read_spec` gives.
CODES: Mapping[str, str] = {"unknown_key": "unknown_option", "missing": "missing_field", "unsupported": "unsupported"}


def from_validation(error: RequestValidationError) -> ApiError:
    """422 with the first fault as the message and every fault in `details`; the submitted values stay out of it."""
    faults = {path: ", or ".join(messages) for path, messages in _faults(error).items()}
    param, message = next(iter(faults.items()))
    kinds = {one["type"] for one in error.errors()}
    code = next((CODES[kind] for kind in CODES if kind in kinds), "invalid_value")
    details = [{"row": None, "field": path, "message": what} for path, what in faults.items()]
    return ApiError(422, code, f"{param}: {message}" if param else message, param=param, details=details)


def from_http(error: HTTPException) -> ApiError:
    """The router's own refusals (no such path, wrong method) in our words."""
    status = error.status_code
    codes = {400: "unreadable_form", 404: "unknown_path", 405: "method_not_allowed"}
    messages = {
        400: f"The form cannot be read: {error.detail}",
        404: "No such path. GET /docs lists every path.",
        405: "This path does not take this method.",
    }
    message = messages.get(status, HTTPStatus(status).phrase)
    return ApiError(status, codes.get(status, "http_error"), message, headers=error.headers)


def from_house(error: house.StillhouseError) -> ApiError:
    """A service's error with its HTTP status. A server-side cause (500) stays in the log, only its code goes out."""
    status = next(STATUSES[cls] for cls in type(error).__mro__ if cls in STATUSES)
    if status == 500:
        log.error("house_error", code=error.code, message=error.message)
        return ApiError(500, error.code, UNEXPECTED.message)
    retry_after = getattr(error, "retry_after", None)
    headers = {"retry-after": str(retry_after)} if retry_after is not None else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    details = [asdict(detail) for detail in error.details]
    kind = "quota_exceeded" if isinstance(error, house.QuotaExceeded) else None
    return ApiError(status, error.code, error.message, param=error.param, details=details, headers=headers, kind=kind)


def to_api_error(error: Exception) -> ApiError:
    """Any error as what goes out; one that nobody expected tells nothing of itself."""
    if isinstance(error, house.StillhouseError):
        return from_house(error)
    if isinstance(error, RequestValidationError):
        return from_validation(error)
    if isinstance(error, HTTPException):
        return from_http(error)
    if isinstance(error, ApiError):
        return error
    if is_unstorable(error):
        return UNSTORABLE
    if isinstance(error, CommitUnknown):
        return MAYBE_DONE
    return NO_DATABASE if is_outage(error) else UNEXPECTED


def install(app: FastAPI) -> None:
    """Answer every error in the one shape."""

    def handle(request: Request, error: Exception) -> JSONResponse:
        return error_response(to_api_error(error), request.url.path)

    def note(request: Request, error: Exception) -> Response:
        log.info("client_left", path=request.url.path)
        return Response(status_code=CLIENT_LEFT)

    for kind in (ApiError, house.StillhouseError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)
    app.add_exception_handler(ClientDisconnect, note)
