"""Chat completions: a checked request becomes samples in the engine, their pieces become a reply or a stream."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson

from engines.lmhost.engine import Engine
from engines.lmhost.prompts import Prompts
from engines.lmhost.rows import Piece, Request, Row
from engines.lmhost.sampling import Sampling
from engines.lmhost.schemas import ChatRequest, usage


@dataclass
class Running:
    """A request in the engine: its rows, and the queue on which their pieces arrive."""

    rows: list[Row]
    pieces: asyncio.Queue[Piece]
    prompt_tokens: int


class Chat:
    """Answers chat completion requests from one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._prompts = Prompts(engine.tokenizer, engine.shape.max_positions)
        # Compiling a grammar can take a second; it may not hold the event loop.
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    async def start(self, body: ChatRequest) -> Running:
        """Check what only the loaded model can check, and hand the samples to the engine. Raises HostError."""
        adapter = self._engine.adapter_of(body.model)
        prompt = self._prompts.encode([message.rendered() for message in body.messages])
        room = self._prompts.room(prompt, body.max_completion_tokens or body.max_tokens)
        grammar = None
        if (constraint := body.constraint()) is not None:
            loop = asyncio.get_running_loop()
            grammar = await loop.run_in_executor(self._compiler, self._engine.guidance.compile, *constraint)
        pieces, listener = _listener()
        sampling, stream, stop = _sampling(body), bool(body.stream), body.stops()
        samples = range(body.n or 1)
        requests = [Request(prompt, adapter, sampling, room, listener, sample, stop, grammar, stream) for sample in samples]
        return Running(await asyncio.wrap_future(self._engine.submit(requests)), pieces, len(prompt))

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
        choices = [_choice(last[sample], message={"role": "assistant", "content": last[sample].text}) for sample in sorted(last)]
        return {**_head(body.model, "chat.completion"), "choices": choices, "usage": _usage(running, list(last.values()))}

    async def stream(self, body: ChatRequest, running: Running) -> AsyncIterator[bytes]:
        """Server-sent events; a failure after the start is an event too."""
        head, last = _head(body.model, "chat.completion.chunk"), list[Piece]()
        try:
            for sample in range(len(running.rows)):
                yield _event({**head, "choices": [_choice(Piece(sample, ""), delta={"role": "assistant", "content": ""})]})
            while len(last) < len(running.rows):
                piece = await running.pieces.get()
                if piece.error is not None:
                    yield _event(piece.error.body())
                    return
                yield _event({**head, "choices": [_choice(piece, delta={"content": piece.text} if piece.text else {})]})
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


def _choice(piece: Piece, **said: dict[str, str]) -> dict[str, Any]:
    return {"index": piece.sample, **said, "logprobs": None, "finish_reason": piece.finish}


def _usage(running: Running, pieces: list[Piece]) -> dict[str, Any]:
    """The prompt counts once for all samples; cached is what the first sample did not have to compute."""
    first = min(pieces, key=lambda piece: piece.sample)
    return usage(running.prompt_tokens, sum(piece.completion_tokens for piece in pieces), first.cached_tokens)


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"
