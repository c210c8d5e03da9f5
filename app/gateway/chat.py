"""POST /v1/chat/completions: resolve the model, wait while it loads, relay. The body is passed on; the model's name is the only change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from app import examples
from app.auth import ModelUser
from app.body import media_type, read_beside
from app.deps import BODY_ERRORS, COMMON_ERRORS, errors
from app.errors import ApiError
from app.gateway import prompt_check
from app.gateway.prompt_check import PromptCheck
from app.gateway.streams import whole_events
from app.idempotency import OncePaidDep
from app.services import Services, ServicesDep
from distill.catalog.targets import Resolved, resolve
from distill.db import unit_of_work
from distill.relay import RelayReply, Target

LONGEST_LOAD_WAIT_SECONDS = 30.0
_LOOK_EVERY_SECONDS = 0.5
_PASSED_HEADERS = frozenset({"content-type", "retry-after"})

routes = APIRouter(prefix="/v1", tags=["OpenAI-shaped"], responses=COMMON_ERRORS)

_BODY: Mapping[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model", "messages"],
                    "additionalProperties": True,
                    "properties": {
                        "model": {
                            "type": "string",
                            "description": "A fine-tuned model's id, `program_name.predictor@alias`, or `connection/model`",
                        },
                        "messages": {"type": "array", "items": {"type": "object"}},
                        "stream": {"type": "boolean"},
                    },
                    "examples": [examples.CHAT],
                }
            }
        },
    }
}


@routes.post(
    "/chat/completions",
    summary="Ask a model",
    response_class=Response,
    responses={
        **BODY_ERRORS,
        **errors(404, 409),
        200: {"description": "OpenAI's chat completion, or its event stream", "content": {"application/json": {}, "text/event-stream": {}}},
    },
    openapi_extra=dict(_BODY),
)
async def chat_completions(
    request: Request, caller: ModelUser, services: ServicesDep, once: OncePaidDep, prompts: PromptCheck = None
) -> Response:
    """OpenAI's route. An id that is not a model is 404; a model that is still loading is waited for up to 30 s, then 503.

    The base model never answers in a fine-tuned model's place. What a compiled program's model was not trained to answer, a prompt with
    another system message than its program's, is 400 `not_a_rendered_prompt`. With `stream` an Idempotency-Key has no effect."""
    body = _checked(await read_beside(await request.body(), media_type(request)))

    async def ask() -> Response:
        found = await run_in_threadpool(_resolve, caller.project_id, body["model"])
        if prompts != "off":
            await run_in_threadpool(prompt_check.check, found, body["messages"])
        target = await _ready_target(found, caller.project_id, body["model"])
        return await _relayed(services, target, body, bool(body.get("stream")))

    return await (ask() if body.get("stream") else once.reply(ask))


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


def _checked(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise ApiError(400, "invalid_value", "The body must be an object.")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise ApiError(400, "missing_field", "model: name the model", param="model")
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        raise ApiError(400, "missing_field", "messages: give at least one message", param="messages")
    if (wrong := next((n for n, message in enumerate(body["messages"]) if not isinstance(message, dict)), None)) is not None:
        raise ApiError(400, "invalid_value", f"messages[{wrong}]: must be an object", param=f"messages[{wrong}]")
    if redirecting := _REDIRECTING & body.keys():
        name = min(redirecting)
        raise ApiError(400, "unsupported", f"{name}: where a call goes, and with which key, is the connection's to say", param=name)
    return body


async def _ready_target(found: Resolved, project_id: str, model: str) -> Target:
    """Where the model answers, once it is loaded. Raises NotFound, or ApiError 503 when it does not load in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LONGEST_LOAD_WAIT_SECONDS
    while True:
        if found.readiness == "ready":
            return found.target
        if found.readiness == "failed" or loop.time() >= deadline:
            raise _not_loaded(found)
        await asyncio.sleep(_LOOK_EVERY_SECONDS)
        found = await run_in_threadpool(_resolve, project_id, model)


def _resolve(project_id: str, model: str) -> Resolved:
    with unit_of_work("api") as session:
        return resolve(session, project_id, model)


def _not_loaded(found: Resolved) -> ApiError:
    code = "model_failed" if found.readiness == "failed" else "model_loading"
    wait = "60" if found.readiness == "failed" else "5"
    return ApiError(503, code, f"The model cannot answer now: {found.reason}.", param="model", headers={"retry-after": wait})


async def _relayed(services: Services, target: Target, body: Mapping[str, Any], stream: bool) -> Response:
    reply = await services.relay.forward(target, body, stream)
    if reply.code is not None:
        raise _refused(reply)
    headers = {name: value for name, value in reply.headers.items() if name.lower() in _PASSED_HEADERS}
    if reply.stream is not None:
        events = whole_events(reply.stream, target.connection)
        return StreamingResponse(events, reply.status, headers={"cache-control": "no-store", **headers})
    return Response(reply.body, reply.status, headers=headers)


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
