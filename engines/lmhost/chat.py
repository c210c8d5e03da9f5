"""Chat completions: messages become a prompt, and what is said in answer text and tool calls."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from engines.chat_template import Tools
from engines.lmhost.answering import Answering, Constraint, Running
from engines.lmhost.engine import Engine
from engines.lmhost.errors import bad_request
from engines.lmhost.prefix_tree import Tokens
from engines.lmhost.rows import Piece
from engines.lmhost.schemas import ChatRequest
from engines.lmhost.tools import CallReader, syntax_of


class Chat(Answering[ChatRequest]):
    """Answers chat completion requests."""

    operation = "chat"
    object, chunk, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._syntax = syntax_of(engine.tokenizer)

    async def start(self, body: ChatRequest, *, background: bool = False) -> Running:
        self._engine.adapter_of(body.model)
        tools = body.offered()
        if tools and self._syntax is None:
            raise bad_request("The base model's chat template has no tool calls that this host reads.", "tools", "tools_unsupported")
        prompt = await self._prompt(_messages(body), tools)
        most = body.max_completion_tokens or body.max_tokens
        running = await self._submit(body, [prompt], most, self._constraint(body), background)
        if tools:
            running.readers = [CallReader() for _ in running.rows]
        return running

    async def _prompt(self, messages: list[dict[str, Any]], tools: Tools) -> Tokens:
        known = self._prompts.known(messages, tools)
        if known is not None:
            return known
        return await asyncio.get_running_loop().run_in_executor(self._encoder, self._prompts.encode, messages, tools)

    def _constraint(self, body: ChatRequest) -> Constraint | None:
        if self._syntax is not None and (demanded := body.demanded()):
            return "grammar", self._syntax.grammar(demanded), "tools"
        return body.constraint()

    def openings(self, running: Running) -> list[dict[str, Any]]:
        said = {"role": "assistant", "content": ""}
        return [{"index": sample, "delta": said, "logprobs": None, "finish_reason": None} for sample in range(len(running.rows))]

    def whole(self, running: Running, piece: Piece) -> dict[str, Any]:
        return self._choice(running, piece, "message")

    def part(self, running: Running, piece: Piece) -> dict[str, Any]:
        return self._choice(running, piece, "delta")

    def _choice(self, running: Running, piece: Piece, kind: Literal["message", "delta"]) -> dict[str, Any]:
        """A whole answer, or what is new of it, with its tool calls beside the text."""
        reader, finish = running.readers[piece.sample], str(piece.finish or "") or None
        before, text, calls = 0, piece.text, list[dict[str, Any]]()
        if reader is not None:
            before = reader.count
            text, calls = reader.take(piece.text, last=piece.finish is not None)
            finish = "tool_calls" if finish == "stop" and reader.count else finish
        if kind == "message":
            said: dict[str, Any] = {"role": "assistant", "content": None if calls and not text else text}
        else:
            said = {"content": text} if text else {}
            calls = [{"index": at, **call} for at, call in enumerate(calls, before)]
        said = {**said, **({"tool_calls": calls} if calls else {})}
        return {"index": piece.sample, kind: said, "logprobs": self.logprobs(piece), "finish_reason": finish}


def _messages(body: ChatRequest) -> list[dict[str, Any]]:
    try:
        return [message.rendered() for message in body.messages]
    except ValueError as error:
        raise bad_request(f"messages: {error}", "messages") from None
