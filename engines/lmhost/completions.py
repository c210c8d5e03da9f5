"""Text completions: a prompt goes on as it is, without a chat template."""

from __future__ import annotations

import asyncio
from typing import Any

from engines.lmhost.answering import Answering, Running
from engines.lmhost.prefix_tree import Tokens
from engines.lmhost.rows import Piece
from engines.lmhost.schemas import CompletionRequest

DEFAULT_TOKENS = 16
"""Of an answer to a request that does not say, as OpenAI has it."""


class Completions(Answering[CompletionRequest]):
    """Answers text completion requests."""

    operation = "text_completion"
    object, chunk, prefix = "text_completion", "text_completion", "cmpl"

    async def start(self, body: CompletionRequest, *, background: bool = False) -> Running:
        self._engine.adapter_of(body.model)
        prompts = await asyncio.get_running_loop().run_in_executor(self._encoder, self._encoded, body)
        most = DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
        return await self._submit(body, prompts, most, body.constraint(), background)

    def _encoded(self, body: CompletionRequest) -> list[Tokens]:
        return [self._prompts.plain(prompt) for prompt in body.prompts()]

    def whole(self, running: Running, piece: Piece) -> dict[str, Any]:
        return {"index": piece.sample, "text": piece.text, "logprobs": None, "finish_reason": piece.finish}

    part = whole
