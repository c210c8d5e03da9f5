"""Chat completions: a checked request becomes samples in the engine, their pieces become a reply or a stream."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from engines.chat_template import Tools
from engines.lmhost.engine import Engine
from engines.lmhost.errors import bad_request
from engines.lmhost.prefix_tree import Tokens
from engines.lmhost.prompts import Prompts
from engines.lmhost.rows import Piece, Request, Row
from engines.lmhost.sampling import Sampling
from engines.lmhost.schemas import ChatRequest, usage
from engines.lmhost.tools import CallReader, syntax_of


@dataclass
class Running:
    """A request in the engine: its rows, the queue on which their pieces arrive, and for each sample who reads its tool calls."""

    rows: list[Row]
    pieces: asyncio.Queue[Piece]
    prompt_tokens: int
    readers: list[CallReader | None]


class Chat:
    """Answers chat completion requests from one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._prompts = Prompts(engine.tokenizer, engine.shape.max_positions)
        self._syntax = syntax_of(engine.tokenizer)
        # Compiling a grammar can take a second, and a chat template as long as it may: neither holds the event loop.
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="prompt")

    async def start(self, body: ChatRequest) -> Running:
        """Check what only the loaded model can check, and hand the samples to the engine. Raises HostError."""
        adapter = self._engine.adapter_of(body.model)
        tools = body.offered()
        if tools and self._syntax is None:
            raise bad_request("The base model's chat template has no tool calls that this host reads.", "tools", "tools_unsupported")
        prompt = await self._prompt(_messages(body), tools)
        room = self._prompts.room(prompt, body.max_completion_tokens or body.max_tokens)
        grammar = None
        if (constraint := self._constraint(body)) is not None:
            loop = asyncio.get_running_loop()
            grammar = await loop.run_in_executor(self._compiler, self._engine.guidance.compile, *constraint)
        pieces, listener = _listener()
        sampling, stream, stop = _sampling(body), bool(body.stream), body.stops()
        samples = range(body.n or 1)
        requests = [Request(prompt, adapter, sampling, room, listener, sample, stop, grammar, stream) for sample in samples]
        rows = await asyncio.wrap_future(self._engine.submit(requests))
        return Running(rows, pieces, len(prompt), [CallReader() if tools else None for _ in samples])

    async def _prompt(self, messages: list[dict[str, Any]], tools: Tools) -> Tokens:
        known = self._prompts.known(messages, tools)
        if known is not None:
            return known
        return await asyncio.get_running_loop().run_in_executor(self._encoder, self._prompts.encode, messages, tools)

    def _constraint(self, body: ChatRequest) -> tuple[str, Any, str] | None:
        if self._syntax is not None and (demanded := body.demanded()):
            return "grammar", self._syntax.grammar(demanded), "tools"
        return body.constraint()

    def cancel(self, running: Running) -> None:
        """The caller has gone."""
        self._engine.cancel(running.rows)

    async def complete(self, body: ChatRequest, running: Running) -> dict[str, Any]:
        """Wait for all samples. Raises the first sample's HostError."""
        last: dict[int, Piece] = {}
        while len(last) < len(running.rows):
            piece = await running.pieces.get()
            if piece.error is not None:
                self.cancel(running)
                raise piece.error
            last[piece.sample] = piece
        choices = [_choice(running, last[sample], "message") for sample in sorted(last)]
        return {**_head(body.model, "chat.completion"), "choices": choices, "usage": _usage(running, list(last.values()))}

    async def stream(self, body: ChatRequest, running: Running) -> AsyncIterator[bytes]:
        """Server-sent events; a failure after the start is an event too."""
        head, last = _head(body.model, "chat.completion.chunk"), list[Piece]()
        try:
            for sample in range(len(running.rows)):
                first = {"index": sample, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
                yield _event({**head, "choices": [first]})
            while len(last) < len(running.rows):
                piece = await running.pieces.get()
                if piece.error is not None:
                    yield _event(piece.error.body())
                    return
                yield _event({**head, "choices": [_choice(running, piece, "delta")]})
                last.extend([piece] if piece.finish else [])
            if body.stream_options and body.stream_options.include_usage:
                yield _event({**head, "choices": [], "usage": _usage(running, last)})
            yield b"data: [DONE]\n\n"
        finally:
            self.cancel(running)


def _listener() -> tuple[asyncio.Queue[Piece], Any]:
    """A queue of this event loop and the function with which the engine's thread fills it."""
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Piece]()

    def listener(piece: Piece) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, piece)

    return pieces, listener


def _sampling(body: ChatRequest) -> Sampling:
    seed = secrets.randbits(63) if body.seed is None else body.seed
    return Sampling(1.0 if body.temperature is None else body.temperature, 1.0 if body.top_p is None else body.top_p, seed)


def _head(model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _messages(body: ChatRequest) -> list[dict[str, Any]]:
    try:
        return [message.rendered() for message in body.messages]
    except ValueError as error:
        raise bad_request(f"messages: {error}", "messages") from None


def _choice(running: Running, piece: Piece, kind: Literal["message", "delta"]) -> dict[str, Any]:
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
    return {"index": piece.sample, kind: {**said, **({"tool_calls": calls} if calls else {})}, "logprobs": None, "finish_reason": finish}


def _usage(running: Running, pieces: list[Piece]) -> dict[str, Any]:
    """The prompt counts once for all samples; cached is what the first sample did not have to compute."""
    first = min(pieces, key=lambda piece: piece.sample)
    return usage(running.prompt_tokens, sum(piece.completion_tokens for piece in pieces), first.cached_tokens)


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"
