"""The HTTP door: vLLM's routes over one engine."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from engines.lmhost import tracing
from engines.lmhost.answering import Answering
from engines.lmhost.chat import Chat
from engines.lmhost.completions import Completions
from engines.lmhost.engine import Engine
from engines.lmhost.errors import HostError
from engines.lmhost.metrics import render
from engines.lmhost.schemas import AnswerRequest, ChatRequest, CompletionRequest, LoadLora, UnloadLora, invalid

Body = TypeVar("Body", bound=BaseModel)
Asked = TypeVar("Asked", bound=AnswerRequest)
Handler = Callable[[Request], Awaitable[Response]]
MAX_BODY_BYTES = 16 * 2**20


def create_app(engine: Engine, api_key: str | None) -> Starlette:
    """The ASGI app; ``api_key`` None leaves it open."""
    routes = Routes(engine)
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/health", routes.health),
        ("GET", "/metrics", routes.metrics),
        ("GET", "/v1/models", routes.models),
        ("POST", "/v1/chat/completions", routes.chat),
        ("POST", "/v1/completions", routes.completions),
        ("POST", "/v1/load_lora_adapter", routes.load),
        ("POST", "/v1/unload_lora_adapter", routes.unload),
        ("POST", "/sleep", routes.sleep),
        ("POST", "/wake_up", routes.wake),
        ("GET", "/is_sleeping", routes.is_sleeping),
    ]
    return Starlette(routes=[Route(path, _guarded(handler, api_key, path), methods=[method]) for method, path, handler in table])


def _guarded(handler: Handler, api_key: str | None, path: str) -> Handler:
    """Ask for the key (except for /health) and turn refusals into replies."""

    async def guarded(request: Request) -> Response:
        try:
            if api_key is not None and path != "/health":
                _check_key(request, api_key)
            return await handler(request)
        except HostError as error:
            headers = {"retry-after": str(error.retry_after)} if error.retry_after else {}
            return _json(error.body(), error.status, headers)

    return guarded


def _check_key(request: Request, api_key: str) -> None:
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {api_key}".encode()):
        raise HostError(401, "invalid_api_key", "Give the LM host's key as a Bearer token.")


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


async def _read(request: Request, kind: type[Body]) -> Body:
    raw = await request.body()
    if len(raw) > MAX_BODY_BYTES:
        raise HostError(413, "body_too_large", f"The body has {len(raw)} bytes; at most {MAX_BODY_BYTES} are taken.")
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise invalid(error, getattr(kind, "absent", frozenset())) from error


class Routes:
    """The handlers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._chat = Chat(engine)
        self._completions = Completions(engine)

    async def health(self, request: Request) -> Response:
        """Alive; also while sleeping."""
        return _json({"status": "sleeping" if self._engine.sleeping else "ok"})

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        return Response(render(self._engine), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """The base model and the loaded LoRA adapters; these name their parent."""
        base = self._engine.base
        models = [_model(base.id, None, base.digest)]
        models += [_model(adapter.name, base.id, adapter.digest) for adapter in self._engine.adapters.values()]
        return _json({"object": "list", "data": models})

    async def chat(self, request: Request) -> Response:
        """A chat completion, whole or streamed."""
        return await _answered(request, await _read(request, ChatRequest), self._chat)

    async def completions(self, request: Request) -> Response:
        """A text completion, whole or streamed."""
        return await _answered(request, await _read(request, CompletionRequest), self._completions)

    async def load(self, request: Request) -> Response:
        """Load a LoRA adapter from a folder on this machine."""
        body = await _read(request, LoadLora)
        adapter = await asyncio.to_thread(self._engine.load, body.lora_name, Path(body.lora_path))
        return _json(_model(adapter.name, self._engine.base.id, adapter.digest))

    async def unload(self, request: Request) -> Response:
        """Unload a LoRA adapter; replies when its last row has finished."""
        body = await _read(request, UnloadLora)
        await asyncio.wrap_future(self._engine.unload(body.lora_name))
        return _json({"unloaded": body.lora_name})

    async def sleep(self, request: Request) -> Response:
        """Hand the device over; replies when the memory is free."""
        await asyncio.wrap_future(self._engine.sleep())
        return await self.is_sleeping(request)

    async def wake(self, request: Request) -> Response:
        """Take the device back; replies when the base model is loaded."""
        await asyncio.to_thread(self._engine.wake)
        return await self.is_sleeping(request)

    async def is_sleeping(self, request: Request) -> Response:
        """Whether requests are refused."""
        return _json({"is_sleeping": self._engine.sleeping})


async def _answered(request: Request, body: Asked, by: Answering[Asked]) -> Response:
    """A caller that goes away takes its rows along."""
    generation = tracing.generation(by.operation, request.headers)
    try:
        running = await by.start(body, background=_is_background(request))
    except Exception as error:
        generation.fail(error.code if isinstance(error, HostError) else type(error).__name__)
        raise
    generation.begin(body.model)
    running.generation = generation
    if body.stream:
        return StreamingResponse(by.stream(body, running), media_type="text/event-stream")
    answer = asyncio.ensure_future(by.complete(body, running))
    gone = asyncio.ensure_future(_disconnected(request))
    await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
    if answer.done():
        gone.cancel()
        return _json(answer.result())
    answer.cancel()
    by.cancel(running)
    return Response(status_code=499)


def _is_background(request: Request) -> bool:
    """RFC 9218: `priority: u=7` is work for which nobody waits."""
    return "u=7" in [part.strip() for part in request.headers.get("priority", "").split(",")]


def _model(name: str, parent: str | None, digest: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "stillhouse", "parent": parent, "digest": digest}


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
