"""Everything the client raises.

StillhouseError
├── ConfigError              no address or key could be found
├── InvalidName              an id or name that is none; nothing was sent
├── WaitTimeout              a wait ended first; the job goes on
├── DamagedArtifact          a downloaded file does not have its digest
├── ModelUnavailable         a loaded program's model does not answer now; code, retry_after
└── APIError                 message, request_id
    ├── UnexpectedReply      the answer is not one of a Stillhouse server
    ├── APIConnectionError   the server was not reached
    │   └── APITimeoutError
    └── APIStatusError       status_code, code, type, param, details, retry_after
        ├── BadRequestError 400        ├── AuthenticationError 401   ├── PermissionDeniedError 403
        ├── NotFoundError 404          ├── ConflictError 409         ├── PreconditionFailedError 412
        ├── BodyTooLargeError 413      ├── UnsupportedMediaTypeError 415
        ├── UnprocessableEntityError 422                              ├── RateLimitError 429
        └── ServerError 5xx
            └── ServiceUnavailableError 503
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx


class StillhouseError(Exception):
    """Base of all."""


class ConfigError(StillhouseError):
    """No address or API key: run `stillhouse login`, set STILLHOUSE_API_KEY, or run `stillhouse-server up`."""


class InvalidName(StillhouseError, ValueError):
    """An id or name that is none, such as an empty one. Nothing was sent."""


class WaitTimeout(StillhouseError):
    """The wait ended before the job did. The job goes on; wait again with the same id."""

    def __init__(self, job_id: str, status: str, seconds: float) -> None:
        super().__init__(f"{job_id} is still {status} after {seconds:g} s; it goes on, wait again with the same id")
        self.job_id = job_id
        self.status = status


class DamagedArtifact(StillhouseError):
    """A file of an artifact is missing or does not have the digest that the server named."""


class ModelUnavailable(StillhouseError):
    """A model of a loaded program is not reached, or cannot answer now. The base model never answers in its place.

    `code` says why (`model_loading`, `transport`, `timeout`, …), `retry_after` in how many seconds to ask again, where that is known.
    """

    def __init__(self, message: str, code: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class APIError(StillhouseError):
    """A request failed."""

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id


class UnexpectedReply(APIError):
    """What answered is no Stillhouse server, or something between changed its answer: look at the address."""


class APIConnectionError(APIError):
    """The server was not reached, or the connection broke."""


class APITimeoutError(APIConnectionError):
    """The server did not answer in time."""


class APIStatusError(APIError):
    """The server answered with an error. `param` is a JSON path into the request; `details` names rows, counted from 1."""

    def __init__(self, status_code: int, error: Mapping[str, Any], *, request_id: str | None, retry_after: float | None) -> None:
        super().__init__(_text(status_code, error), request_id=request_id or error.get("request_id"))
        self.status_code = status_code
        self.code: str | None = error.get("code")
        self.type: str | None = error.get("type")
        self.param: str | None = error.get("param")
        self.details: list[dict[str, Any]] = list(error.get("details") or [])
        self.retry_after = retry_after


class BadRequestError(APIStatusError):
    """400"""


class AuthenticationError(APIStatusError):
    """401"""


class PermissionDeniedError(APIStatusError):
    """403"""


class NotFoundError(APIStatusError):
    """404"""


class ConflictError(APIStatusError):
    """409"""


class PreconditionFailedError(APIStatusError):
    """412"""


class BodyTooLargeError(APIStatusError):
    """413"""


class UnsupportedMediaTypeError(APIStatusError):
    """415"""


class UnprocessableEntityError(APIStatusError):
    """422"""


class RateLimitError(APIStatusError):
    """429"""


class ServerError(APIStatusError):
    """5xx"""


class ServiceUnavailableError(ServerError):
    """503: cannot answer now; `retry_after` says when to ask again."""


BY_STATUS: Mapping[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    412: PreconditionFailedError,
    413: BodyTooLargeError,
    415: UnsupportedMediaTypeError,
    422: UnprocessableEntityError,
    429: RateLimitError,
    503: ServiceUnavailableError,
}


def _text(status_code: int, error: Mapping[str, Any]) -> str:
    message = str(error.get("message") or f"HTTP {status_code}")
    code = error.get("code")
    return f"{message} ({status_code} {code})" if code else f"{message} ({status_code})"


def retry_after(response: httpx.Response) -> float | None:
    """Seconds of the `Retry-After` header, which is a number or a date; None when there is none, or neither."""
    wish = response.headers.get("retry-after", "")
    try:
        seconds = float(wish)
    except ValueError:
        seconds = _seconds_until(wish)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(date: str) -> float:
    """NaN for what is no date."""
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except (TypeError, ValueError):
        return math.nan


def error_from(response: httpx.Response) -> APIStatusError:
    """The typed error of a reply whose body has been read; a body that is not ours still gives the class of its status."""
    try:
        body = response.json()
    except ValueError:
        body = None
    error = body.get("error") if isinstance(body, dict) else None
    fields = error if isinstance(error, dict) else {}
    status = response.status_code
    cls = BY_STATUS.get(status, ServerError if status >= 500 else APIStatusError)
    return cls(status, fields, request_id=response.headers.get("x-request-id"), retry_after=retry_after(response))
