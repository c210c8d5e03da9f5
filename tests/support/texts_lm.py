"""A scripted LM host that has text completions and embeddings beside chat completions."""

from __future__ import annotations

import json
import time
from typing import Any

from aiohttp import web

from tests.support.scripted_lm import Call, ScriptedLM, complete


class TextsLM(ScriptedLM):
    """A prompt is answered as the same text in a chat would be, streamed word by word; a text's embedding is its length."""

    def add_routes(self, router: web.UrlDispatcher) -> None:
        super().add_routes(router)
        router.add_post("/v1/completions", self._completions)
        router.add_post("/v1/embeddings", self._embeddings)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await self._noted(request)
        assert callable(self.answer)
        said = complete(self.answer, 0, {**body, "messages": [{"role": "user", "content": str(body["prompt"])}]})
        whole = {**said, "id": "cmpl-0", "object": "text_completion", "created": 1}
        text = said["choices"][0]["message"]["content"]
        if not body.get("stream"):
            return web.json_response({**whole, "choices": [_choice(text, "stop")]})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        words = text.split(" ")
        for n, word in enumerate(words):
            choice = _choice(word if n == 0 else f" {word}", "stop" if n == len(words) - 1 else None)
            await response.write(f"data: {json.dumps({**whole, 'choices': [choice]})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await self._noted(request)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        data = [{"object": "embedding", "index": n, "embedding": [float(len(text))]} for n, text in enumerate(texts)]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return web.json_response({"object": "list", "model": body["model"], "data": data, "usage": usage})

    async def _noted(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.calls.append(Call("", body, dict(request.headers), time.monotonic(), time.monotonic()))
        return body


def _choice(text: str, finish: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
