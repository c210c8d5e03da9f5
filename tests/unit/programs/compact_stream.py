"""An LM that streams one answer in pieces, and what dspy's listeners hear of it."""

import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import dspy
from dspy.lm15 import Message, Response, StreamDeltaEvent, StreamEndEvent, StreamStartEvent, TextDelta, TextPart, Usage
from dspy.streaming import StreamResponse, streamify

USAGE = Usage(input_tokens=1, output_tokens=1)


class Engine:
    """An LM that gives one answer in pieces."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def complete(self, request: Any) -> Response:
        text = TextPart("".join(self.pieces))
        return Response(id="1", model="test", message=Message.assistant([text]), finish_reason="stop", usage=USAGE)

    def stream(self, request: Any) -> Iterator[Any]:
        yield StreamStartEvent(id="1", model="test")
        for piece in self.pieces:
            yield StreamDeltaEvent(delta=TextDelta(text=piece, part_index=0))
        yield StreamEndEvent(finish_reason="stop", usage=USAGE)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Engine":
        return self


class AsyncEngine:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def complete(self, request: Any) -> Response:
        return self.engine.complete(request)

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        for event in self.engine.stream(request):
            yield event

    def __deepcopy__(self, memo: dict[int, Any]) -> "AsyncEngine":
        return self


def predictor(signature: Any, pieces: list[str]) -> Any:
    """A predictor whose LM gives these pieces."""
    asked = dspy.Predict(signature)
    asked.lm = dspy.LM("test/none", engine=Engine(pieces), async_engine=AsyncEngine(Engine(pieces)), cache=False, num_retries=0)
    return asked


async def heard(program: Any, listeners: list[Any], inputs: dict[str, Any], is_async: bool = True) -> tuple[list[StreamResponse], Any]:
    """The pieces, and the prediction."""
    stream = streamify(program, stream_listeners=listeners, is_async_program=is_async)
    *pieces, last = [part async for part in stream(**inputs)]
    return [piece for piece in pieces if isinstance(piece, StreamResponse)], last


def joined(pieces: list[StreamResponse], name: str) -> str:
    """What was heard of one field."""
    return "".join(piece.chunk for piece in pieces if piece.signature_field_name == name)


def cut(text: str, rnd: random.Random) -> list[str]:
    """A text in short pieces."""
    pieces: list[str] = []
    while text:
        at = rnd.randint(1, 6)
        pieces, text = [*pieces, text[:at]], text[at:]
    return pieces
