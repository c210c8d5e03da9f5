"""How a JSON body is read: strictly (no NaN, no Infinity, no lone surrogates), and forgiving of curl's default header."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders

from app.errors import ApiError
from distill import strict_json
from distill.strict_json import NotStrict

JSON_TYPE = "application/json"
#: What `curl -d` sends when no header is given. A browser form also sends it, but never with an API key.
CURL_DEFAULT = "application/x-www-form-urlencoded"
_LARGE = 1 << 18


def media_type(request: Request) -> str:
    """The content type without its parameters, lower case; empty when absent."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def parse_json(body: bytes) -> Any:
    """Strict JSON, see `strict_json.loads`.

    Raises:
        ApiError: 400 `invalid_json`, with line and column but nothing of the body.
    """
    try:
        return strict_json.loads(body)
    except NotStrict as error:
        place = f" at line {error.line} column {error.column}. NaN and Infinity are not JSON; send null" if error.line else ""
        raise ApiError(400, "invalid_json", f"The body {error.what}{place}.") from None


def read_json(body: bytes, content_type: str) -> Any:
    """Parse by content type: JSON, nothing at all, or curl's form default whose body is JSON.

    Raises:
        ApiError: 415 `unsupported_media_type` for another type, or for form data that is not JSON; 400 for bad JSON.
    """
    if content_type in {"", JSON_TYPE} or content_type.endswith("+json"):
        return parse_json(body)
    if content_type == CURL_DEFAULT and body.lstrip()[:1] in {b"{", b"["}:
        return parse_json(body)
    raise ApiError(415, "unsupported_media_type", "This path takes JSON: send the header `Content-Type: application/json`.")


async def read_beside(body: bytes, content_type: str) -> Any:
    """`read_json`, for a large body in a thread: other requests go on meanwhile, as far as Python lets them."""
    if len(body) < _LARGE:
        return read_json(body, content_type)
    return await run_in_threadpool(read_json, body, content_type)


class JsonRoute(APIRoute):
    """A route whose body, if it declares one, is parsed by `read_json` before FastAPI validates it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def strict(request: Request) -> Response:
            body = await request.body()
            if body:
                request._json = await read_beside(body, media_type(request))
                MutableHeaders(scope=request.scope)["content-type"] = JSON_TYPE
                request.__dict__.pop("_headers", None)
            return await handle(request)

        return strict
