"""From samples in the engine to a reply or a stream; what chat and text completions share."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import orjson

from engines.lmhost.engine import Engine
from engines.lmhost.prefix_tree import Tokens
from engines.lmhost.prompts import Prompts
from engines.lmhost.rows import Piece, Request, Row
from engines.lmhost.sampling import Chosen, Sampling
from engines.lmhost.schemas import AnswerRequest
from engines.lmhost.schemas import usage as usage_of
from engines.lmhost.tools import CallReader
from engines.lmhost.tracing import Generation
from engines.lmhost.walks import Grammar

Body = TypeVar("Body", bound=AnswerRequest)
Constraint = tuple[str, Any, str]


@dataclass
class Running:
    """A request in the engine: its rows, ``each`` of them for every prompt, the queue on which their pieces arrive, and for each row who
    reads its tool calls."""

    rows: list[Row]
    pieces: asyncio.Queue[Piece]
    prompt_tokens: int
    each: int = 1
    readers: list[CallReader | None] = field(default_factory=list)
    generation: Generation = field(default_factory=lambda: Generation(""))

    def finish(self, last: list[Piece]) -> dict[str, Any]:
        """The usage of all samples, by the last piece of each; recorded in the span."""
        found = _usage(self, last)
        self.generation.finish(found, [str(piece.finish) for piece in last], max(row.queue_seconds for row in self.rows))
        return found


class Answering(ABC, Generic[Body]):
    """Answers one kind of request from one engine."""

    operation: ClassVar[str]
    object: ClassVar[str]
    chunk: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._prompts = Prompts(engine.tokenizer, engine.shape.max_positions)
        # Compiling a grammar can take a second, and a chat template as long as it may: neither holds the event loop.
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="prompt")

    @abstractmethod
    async def start(self, body: Body, *, background: bool = False) -> Running:
        """Check what only the loaded model can check, and hand the samples to the engine. Raises HostError."""

    @abstractmethod
    def whole(self, running: Running, piece: Piece) -> dict[str, Any]:
        """A whole answer as a choice."""

    @abstractmethod
    def part(self, running: Running, piece: Piece) -> dict[str, Any]:
        """What is new of an answer as a choice of a stream."""

    def openings(self, running: Running) -> list[dict[str, Any]]:
        """Choices that a stream begins with."""
        return []

    def logprobs(self, piece: Piece) -> dict[str, Any] | None:
        """OpenAI's logprobs of a choice, for requests that ask for them."""
        return {"content": [self._token_logprob(each) for each in piece.chosen], "refusal": None} if piece.chosen else None

    def cancel(self, running: Running) -> None:
        """The caller has gone."""
        running.generation.fail("cancelled")
        self._engine.cancel(running.rows)

    async def complete(self, body: Body, running: Running) -> dict[str, Any]:
        """Wait for all samples. Raises the first sample's HostError."""
        last: dict[int, Piece] = {}
        while len(last) < len(running.rows):
            piece = await running.pieces.get()
            if piece.error is not None:
                running.generation.fail(piece.error.code)
                self.cancel(running)
                raise piece.error
            last[piece.sample] = piece
        pieces = [last[sample] for sample in sorted(last)]
        choices = [self.whole(running, piece) for piece in pieces]
        return {**self._head(body.model, self.object), "choices": choices, "usage": running.finish(pieces)}

    async def stream(self, body: Body, running: Running) -> AsyncIterator[bytes]:
        """Server-sent events; a failure after the start is an event too."""
        head, last = self._head(body.model, self.chunk), list[Piece]()
        try:
            for opening in self.openings(running):
                yield _event({**head, "choices": [opening]})
            while len(last) < len(running.rows):
                piece = await running.pieces.get()
                if piece.error is not None:
                    running.generation.fail(piece.error.code)
                    yield _event(piece.error.body())
                    return
                yield _event({**head, "choices": [self.part(running, piece)]})
                last.extend([piece] if piece.finish else [])
            usage = running.finish(last)
            if body.stream_options and body.stream_options.include_usage:
                yield _event({**head, "choices": [], "usage": usage})
            yield b"data: [DONE]\n\n"
        finally:
            self.cancel(running)

    def _token_logprob(self, chosen: Chosen) -> dict[str, Any]:
        top = [{**self._engine.guidance.written(token), "logprob": logprob} for token, logprob in chosen.top]
        return {**self._engine.guidance.written(chosen.token), "logprob": chosen.logprob, "top_logprobs": top}

    async def _submit(
        self, body: Body, prompts: Sequence[Tokens], most: int | None, constraint: Constraint | None, background: bool
    ) -> Running:
        """`n` samples of each prompt, each of at most `most` tokens or as many as there is room for."""
        adapter = self._engine.adapter_of(body.model)
        rooms = [self._prompts.room(prompt, most) for prompt in prompts]
        grammar: Grammar | None = None
        if constraint is not None:
            grammar = await asyncio.get_running_loop().run_in_executor(self._compiler, self._engine.guidance.compile, *constraint)
        pieces, listener = _listener()
        sampling, each = _sampling(body), body.n or 1
        requests = [
            Request(
                prompt,
                adapter,
                sampling,
                room,
                listener,
                number * each + sample,
                body.stops(),
                grammar,
                bool(body.stream),
                body.likeliest(),
                background,
            )
            for number, (prompt, room) in enumerate(zip(prompts, rooms, strict=True))
            for sample in range(each)
        ]
        rows = await asyncio.wrap_future(self._engine.submit(requests))
        return Running(rows, pieces, sum(map(len, prompts)), each, [None] * len(rows))

    def _head(self, model: str, kind: str) -> dict[str, Any]:
        return {"id": f"{self.prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _listener() -> tuple[asyncio.Queue[Piece], Callable[[Piece], None]]:
    """A queue of this event loop and the function with which the engine's thread fills it."""
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Piece]()

    def listener(piece: Piece) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, piece)

    return pieces, listener


def _sampling(body: AnswerRequest) -> Sampling:
    seed = secrets.randbits(63) if body.seed is None else body.seed
    return Sampling(1.0 if body.temperature is None else body.temperature, 1.0 if body.top_p is None else body.top_p, seed)


def _usage(running: Running, pieces: list[Piece]) -> dict[str, Any]:
    """A prompt counts once for all its samples; cached is what the first of them did not have to compute."""
    cached = sum(piece.cached_tokens for piece in pieces if piece.sample % running.each == 0)
    return usage_of(running.prompt_tokens, sum(piece.completion_tokens for piece in pieces), cached)


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"
