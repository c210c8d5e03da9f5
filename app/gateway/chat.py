"""POST /v1/chat/completions. The body is passed on; the model's name is the only change."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from app import examples
from app.auth import ModelUser
from app.deps import COMMON_ERRORS
from app.errors import ApiError
from app.gateway import prompt_check, relaying
from app.gateway.prompt_check import PromptCheck
from app.idempotency import OncePaidDep
from app.services import ServicesDep

routes = APIRouter(prefix="/v1", tags=["OpenAI-shaped"], responses=COMMON_ERRORS)


@routes.post(
    "/chat/completions",
    summary="Ask a model",
    response_class=Response,
    responses=relaying.answers("OpenAI's chat completion, or its event stream"),
    openapi_extra=relaying.takes(examples.CHAT, messages={"type": "array", "minItems": 1, "items": {"type": "object"}}),
)
async def chat_completions(
    request: Request, caller: ModelUser, services: ServicesDep, once: OncePaidDep, prompts: PromptCheck = None
) -> Response:
    """OpenAI's route. An id that is not a model is 404; a model that is still loading is waited for up to 30 s, then 503.

    The base model never answers in a fine-tuned model's place. What a compiled program's model was not trained to answer, a prompt with
    another system message than its program's, is 400 `not_a_rendered_prompt`. With `stream` an Idempotency-Key has no effect."""
    body = await relaying.read_body(request)
    _check_messages(body.get("messages"))
    stream = bool(body.get("stream"))

    async def ask() -> Response:
        found = await relaying.resolved(caller.project_id, body["model"])
        if prompts != "off":
            await run_in_threadpool(prompt_check.check, found, body["messages"][0], "messages")
        return relaying.passed_on(await relaying.ask(services, found, caller.project_id, body, stream), found)

    return await (ask() if stream else once.reply(ask))


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise relaying.missing("messages", "give at least one message")
    if (wrong := next((n for n, message in enumerate(messages) if not isinstance(message, dict)), None)) is not None:
        raise ApiError(400, "invalid_value", f"messages[{wrong}]: must be an object", param=f"messages[{wrong}]")
