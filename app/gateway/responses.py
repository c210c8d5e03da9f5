"""POST /v1/responses, translated to a chat completion and back (decision 0066)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from app.auth import ModelUser
from app.body import JSON_TYPE
from app.deps import router
from app.errors import ApiError
from app.gateway import prompt_check, relaying
from app.gateway.prompt_check import PromptCheck
from app.gateway.response_events import response_events
from app.gateway.translation import Json, answered, chat_body, opened
from app.idempotency import OncePaidDep
from app.schemas.responses import ResponseCreate
from app.services import ServicesDep

routes = router("OpenAI-shaped")


@routes.post(
    "/responses",
    summary="Ask a model for a response",
    response_class=Response,
    responses=relaying.answers("OpenAI's response, or its event stream"),
)
async def responses(
    body: ResponseCreate, caller: ModelUser, services: ServicesDep, once: OncePaidDep, prompts: PromptCheck = None
) -> Response:
    """OpenAI's newer route, for text, structured output and function tools; otherwise as `/v1/chat/completions`.

    Nothing is kept: the whole conversation is in `input`. What needs a kept response, and built-in tools, are refused by name."""

    async def ask() -> Response:
        asked = chat_body(body)
        found = await relaying.resolved(caller.project_id, body.model)
        if prompts != "off":
            await run_in_threadpool(prompt_check.check, found, asked["messages"][0], "input")
        reply = await relaying.ask(services, found, caller.project_id, asked, bool(body.stream))
        response = opened(body, found.model_id)
        if reply.stream is None:
            return Response(_whole(response, reply.answer), media_type=JSON_TYPE)
        events = response_events(reply.stream, response)
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})

    return await (ask() if body.stream else once.reply(ask))


def _whole(response: Json, completion: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(answered(response, completion))
    except (AttributeError, LookupError, TypeError, ValueError):
        message = "The LM host's answer is no chat completion that can be read."
        raise ApiError(503, "unavailable", message, headers={"retry-after": "5"}) from None
