"""POST /v1/completions and /v1/embeddings: text without a chat template. The body is passed on; the model's name is the only change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from app import examples
from app.auth import ModelUser
from app.deps import COMMON_ERRORS
from app.gateway import prompt_check, relaying
from app.gateway.prompt_check import PromptCheck
from app.idempotency import OncePaidDep
from app.services import ServicesDep
from distill.relay import COMPLETIONS, EMBEDDINGS

routes = APIRouter(prefix="/v1", tags=["OpenAI-shaped"], responses=COMMON_ERRORS)

_TOKEN: Mapping[str, Any] = {"type": "integer", "minimum": 0}
_TEXTS: Mapping[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "string"}, _TOKEN, {"type": "array", "items": _TOKEN}]}},
    ],
    "description": "A text, its tokens, or a list of either",
}


@routes.post(
    "/completions",
    summary="Have a model go on with a text",
    response_class=Response,
    responses=relaying.answers("OpenAI's text completion, or its event stream"),
    openapi_extra=relaying.takes(examples.COMPLETION, prompt=_TEXTS),
)
async def completions(
    request: Request, caller: ModelUser, services: ServicesDep, once: OncePaidDep, prompts: PromptCheck = None
) -> Response:
    """OpenAI's route for text without a chat template; otherwise as `/v1/chat/completions`.

    A compiled program's model answers no such prompt, but with `stillhouse-prompt-check: off`. An LM host that has no text completions is
    400 `unsupported`."""
    body = await relaying.read_body(request)
    _check_text(body, "prompt")
    stream = bool(body.get("stream"))

    async def ask() -> Response:
        found = await relaying.resolved(caller.project_id, body["model"])
        if prompts != "off":
            await run_in_threadpool(prompt_check.check, found, None, "prompt")
        return relaying.passed_on(await relaying.ask(services, found, caller.project_id, body, stream, COMPLETIONS), found)

    return await (ask() if stream else once.reply(ask))


@routes.post(
    "/embeddings",
    summary="Embed texts",
    response_class=Response,
    responses=relaying.answers("OpenAI's list of embeddings"),
    openapi_extra=relaying.takes(examples.EMBEDDING, input=_TEXTS),
)
async def embeddings(request: Request, caller: ModelUser, services: ServicesDep, once: OncePaidDep) -> Response:
    """OpenAI's route, for models whose LM host has embeddings. One that has none, as the embedded one, is 400 `unsupported`."""
    body = await relaying.read_body(request)
    _check_text(body, "input")

    async def ask() -> Response:
        found = await relaying.resolved(caller.project_id, body["model"])
        return relaying.passed_on(await relaying.ask(services, found, caller.project_id, body, api=EMBEDDINGS), found)

    return await once.reply(ask)


def _check_text(body: Mapping[str, Any], field: str) -> None:
    given = body.get(field)
    if not given or not (isinstance(given, str) or (isinstance(given, list) and all(map(_is_text, given)))):
        raise relaying.missing(field, "give a text, its tokens, or a list of either")


def _is_text(part: Any) -> bool:
    """Whether it is a text, a token (which JSON may write as 1.0), or a list of tokens."""
    return isinstance(part, str | int | list) or (isinstance(part, float) and part.is_integer())
