"""What the OpenAI-shaped model routes share: check the body, resolve the model, wait while it loads, relay, give back the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from app.body import media_type, read_beside
from app.deps import BODY_ERRORS, errors
from app.errors import ApiError
from app.gateway.streams import counted, renamed, whole_events
from app.gateway.waiting import note_wait
from app.services import Services
from distill.catalog.targets import Resolved, resolve
from distill.db import unit_of_work
from distill.relay import CHAT, Api, RelayReply, Target, lists

LONGEST_LOAD_WAIT_SECONDS = 30.0
_LOOK_EVERY_SECONDS = 0.5
_PASSED_HEADERS = frozenset({"content-type", "retry-after"})
_NOT_THERE = frozenset({404, 405, 501})

#: What some proxies before an LM host take from a body as the address, the key or the headers of the call that they make.
_REDIRECTING = frozenset(
    {
        "api_base",
        "base_url",
        "api_key",
        "api_version",
        "model_list",
        "headers",
        "extra_headers",
        "extra_body",
        "extra_query",
        "organization",
    }
)


def takes(example: Mapping[str, Any], **properties: Mapping[str, Any]) -> dict[str, Any]:
    """A route's `openapi_extra`: its body names a model, has these properties, and others that the LM host knows."""
    known = {"model": _MODEL, **properties, "stream": {"type": "boolean"}}
    schema = {"type": "object", "required": ["model", next(iter(properties))], "additionalProperties": True, "properties": known}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": {**schema, "examples": [example]}}}}}


def answers(description: str) -> dict[int | str, dict[str, Any]]:
    """A route's declared responses."""
    content: dict[str, Any] = {"application/json": {}, "text/event-stream": {}}
    return {**BODY_ERRORS, **errors(404, 409), 200: {"description": description, "content": content}}


_MODEL: Mapping[str, Any] = {
    "type": "string",
    "minLength": 1,
    "description": "A fine-tuned model's id, `program_name.predictor@alias`, or `connection/model`",
}


async def read_body(request: Request) -> dict[str, Any]:
    """The JSON object that was sent, which names a model. Raises ApiError 400."""
    body = await read_beside(await request.body(), media_type(request))
    if not isinstance(body, dict):
        raise ApiError(400, "invalid_value", "The body must be an object.")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise missing("model", "name the model")
    if redirecting := _REDIRECTING & body.keys():
        name = min(redirecting)
        raise ApiError(400, "unsupported", f"{name}: where a call goes, and with which key, is the connection's to say", param=name)
    return body


def missing(field: str, what: str) -> ApiError:
    return ApiError(400, "missing_field", f"{field}: {what}", param=field)


async def resolved(project_id: str, model: str) -> Resolved:
    """What a name means. Raises NotFound."""
    return await run_in_threadpool(_resolve, project_id, model)


async def ask(
    services: Services, found: Resolved, project_id: str, body: Mapping[str, Any], stream: bool = False, api: Api = CHAT
) -> RelayReply:
    """The LM host's answer, once the model is loaded. Raises NotFound; ApiError for a refusal, and where it does not load in time."""
    ready = await _ready(found, project_id, body["model"])
    reply = await (_streamed(services, ready.target, body, api) if stream else services.relay.forward(ready.target, body, api=api))
    if api is not CHAT and reply.status in _NOT_THERE:
        is_served = await lists(ready.target, services.settings.egress.hosts)
        raise _has_no(api, found) if is_served else _not_now(found)
    if reply.code is not None:
        await note_wait(services.relay, ready.target.connection)
        raise _refused(reply)
    return reply


async def _streamed(services: Services, target: Target, body: Mapping[str, Any], api: Api) -> RelayReply:
    """A reply whose stream is whole events. The host is asked for its usage, which is counted; callers get it where they asked for it."""
    options = body.get("stream_options") or {}
    wanted = not isinstance(options, dict) or bool(options.get("include_usage"))
    asked = body if wanted else {**body, "stream_options": {**options, "include_usage": True}}
    reply = await services.relay.forward(target, asked, True, api)
    if reply.code == "bad_request" and not wanted and b"stream_options" in reply.body:  # an older host, which does not know the option
        reply = await services.relay.forward(target, body, True, api)
    if reply.stream is not None:
        events = whole_events(reply.stream, target.connection)
        reply.stream = counted(events, lambda usage: services.relay.count_tokens(target, usage), hide=not wanted)
    return reply


def passed_on(reply: RelayReply, found: Resolved) -> Response:
    """An answer as the LM host gave it, but for the model's id: hosts know models by names of their own."""
    headers = {name: value for name, value in reply.headers.items() if name.lower() in _PASSED_HEADERS}
    if reply.stream is not None:
        return StreamingResponse(
            renamed(reply.stream, found.target.model, found.model_id), reply.status, headers={"cache-control": "no-store", **headers}
        )
    body, answer = reply.body, reply.answer
    if answer.get("model") == found.target.model != found.model_id:
        body = orjson.dumps({**answer, "model": found.model_id})
    return Response(body, reply.status, headers=headers)


async def _ready(found: Resolved, project_id: str, model: str) -> Resolved:
    """The model, once it is loaded. Raises NotFound, or ApiError 503 when it does not load in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LONGEST_LOAD_WAIT_SECONDS
    while True:
        if found.readiness == "ready":
            return found
        if found.readiness == "failed" or loop.time() >= deadline:
            raise _not_loaded(found)
        await asyncio.sleep(_LOOK_EVERY_SECONDS)
        found = await resolved(project_id, model)


def _resolve(project_id: str, model: str) -> Resolved:
    with unit_of_work("api") as session:
        return resolve(session, project_id, model)


def _not_loaded(found: Resolved) -> ApiError:
    code = "model_failed" if found.readiness == "failed" else "model_loading"
    wait = "60" if found.readiness == "failed" else "5"
    return ApiError(503, code, f"The model cannot answer now: {found.reason}.", param="model", headers={"retry-after": wait})


def _has_no(api: Api, found: Resolved) -> ApiError:
    """A host that serves the model answers 404: it has no such route, or has it not for this model."""
    message = f"The LM host of {found.model_id} has no /v1/{api.path} for this model."
    return ApiError(400, "unsupported", message, param="model")


def _not_now(found: Resolved) -> ApiError:
    """A host that is starting, or a proxy before one, answers 404 too."""
    message = f"The LM host does not list {found.model_id} now: it may be starting, or serve another model."
    return ApiError(503, "model_not_found", message, param="model", headers={"retry-after": "5"})


def _refused(reply: RelayReply) -> ApiError:
    """The LM host's refusal in our shape: its message for a fault of the request, only its code for a fault of the host."""
    wait = {name: value for name, value in reply.headers.items() if name.lower() == "retry-after"}
    code = reply.code or "upstream_error"
    if reply.status == 429:
        return ApiError(429, code, "The LM host takes no more requests now.", headers=wait or {"retry-after": "5"})
    if 400 <= reply.status < 500 and code in {"bad_request", "too_large"}:
        message, param = _said(reply)
        return ApiError(413 if code == "too_large" else 400, code, message, param=param)
    return ApiError(503, code, "The LM host cannot answer now.", headers=wait or {"retry-after": "5"})


def _said(reply: RelayReply) -> tuple[str, str | None]:
    """What the LM host said, and which field it named."""
    try:
        error = orjson.loads(reply.body)["error"]
        param = error.get("param")
        return str(error["message"])[:2000], None if param is None else str(param)[:200]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return "The LM host refused the request.", None
