"""Asks an LM host's engine without HTTP."""

import queue
from collections.abc import Callable
from typing import Any

from engines.lmhost.engine import Engine
from engines.lmhost.prompts import Prompts
from engines.lmhost.rows import Piece, Request
from engines.lmhost.sampling import Sampling

MakeEngine = Callable[..., Engine]
Reference = Callable[[list[dict[str, str]], str | None, int], str]
Ask = dict[str, Any]
WAIT_SECONDS = 60


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class Asker:
    """Sends samples to an engine; ``together`` sends several at once, so that they share passes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._prompts = Prompts(engine.tokenizer, engine.shape.max_positions)

    def request(
        self, text: str, listener: Any, lora: str | None = None, constraint: tuple[str, Any] | None = None, **options: Any
    ) -> Request:
        grammar = self.engine.guidance.compile(*constraint, "structured_outputs") if constraint else None
        sampling = Sampling(options.pop("temperature", 0.0), options.pop("top_p", 1.0), options.pop("seed", 0))
        adapter = self.engine.adapter_of(lora or self.engine.base.id)
        return Request(
            self._prompts.encode(chat(text)), adapter, sampling, options.pop("max_tokens", 12), listener, grammar=grammar, **options
        )

    def together(self, *asks: Ask) -> list[Piece]:
        """The last piece of every sample, in the order of ``asks``; each is the keywords of ``request``. Raises its HostError."""
        queues: list[queue.SimpleQueue[Piece]] = [queue.SimpleQueue() for _ in asks]
        requests = [self.request(listener=inbox.put, **ask) for ask, inbox in zip(asks, queues, strict=True)]
        self.engine.submit(requests).result(WAIT_SECONDS)
        return [self._last(inbox) for inbox in queues]

    def ask(self, text: str, **options: Any) -> Piece:
        return self.together({"text": text, **options})[0]

    def _last(self, inbox: "queue.SimpleQueue[Piece]") -> Piece:
        while True:
            piece = inbox.get(timeout=WAIT_SECONDS)
            if piece.error is not None:
                raise piece.error
            if piece.finish is not None:
                return piece
