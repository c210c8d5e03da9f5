"""Streaming of compact answers through dspy's own listeners: what is streamed of a field is what is parsed of it."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import dspy
import pytest
from dspy.lm15 import Message, Response, StreamDeltaEvent, StreamEndEvent, StreamStartEvent, TextDelta, TextPart, Usage
from dspy.streaming import StreamListener, StreamResponse, streamify
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillhouse_programs import prompts
from stillhouse_programs.compact import CompactAdapter
from stillhouse_programs.compact_text import read_value
from stillhouse_programs.pinning import pin
from tests.unit.programs.samples import Reply
from tests.unit.programs.test_compact import answer_of, calls, signature_of

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
    asked = dspy.Predict(signature)
    asked.lm = dspy.LM("test/none", engine=Engine(pieces), async_engine=AsyncEngine(Engine(pieces)), cache=False, num_retries=0)
    return asked


async def heard(program: Any, listeners: list[Any], inputs: dict[str, Any], is_async: bool = True) -> tuple[list[StreamResponse], Any]:
    """The pieces, and the prediction."""
    stream = streamify(program, stream_listeners=listeners, is_async_program=is_async)
    *pieces, last = [part async for part in stream(**inputs)]
    return [piece for piece in pieces if isinstance(piece, StreamResponse)], last


def joined(pieces: list[StreamResponse], name: str) -> str:
    return "".join(piece.chunk for piece in pieces if piece.signature_field_name == name)


def cut(text: str, rnd: random.Random) -> list[str]:
    pieces: list[str] = []
    while text:
        at = rnd.randint(1, 6)
        pieces, text = [*pieces, text[:at]], text[at:]
    return pieces


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(call=calls(), seed=st.integers(0, 2**32))
def test_every_field_is_streamed_as_it_is_parsed(call: tuple[Any, dict[str, Any]], seed: int) -> None:
    signature, outputs = call
    asked = predictor(signature, cut(answer_of(signature, outputs), random.Random(seed)))
    listeners = [StreamListener(signature_field_name=name) for name in outputs]
    pieces, prediction = asyncio.run(heard(pin(asked, CompactAdapter()), listeners, {"q": "x"}))
    assert dict(prediction.items()) == outputs
    for name, value in outputs.items():
        annotation = signature.output_fields[name].annotation
        text = joined(pieces, name)
        assert (text if annotation is str else read_value(text, annotation)) == value


ANSWER = ["ans", "wer: Hello", ".\nconf", "used? ", "\ncon", "fidence", ": 0.5"]


@pytest.mark.parametrize("is_async", [False, True])
def test_pieces_come_as_soon_as_they_are_sure(is_async: bool) -> None:
    listener = StreamListener(signature_field_name="answer")
    asked = pin(predictor(Reply, ANSWER), prompts.make_prompt_adapter("compact"))
    pieces, last = asyncio.run(heard(asked, [listener], {"message": "Hi", "category": "other"}, is_async))
    assert [(piece.chunk, piece.is_last_chunk) for piece in pieces] == [("Hello", False), (".", False), ("\nconfused?", False), ("", True)]
    assert last.answer == "Hello.\nconfused?"


def test_the_app_may_have_configured_the_adapter() -> None:
    with dspy.context(adapter=CompactAdapter()):
        pieces, _ = asyncio.run(heard(predictor(Reply, ANSWER), [StreamListener("answer")], {"message": "Hi", "category": "x"}))
    assert joined(pieces, "answer") == "Hello.\nconfused?"


def test_a_listener_that_may_be_reused_hears_every_answer() -> None:
    asked = pin(predictor(Reply, ANSWER), CompactAdapter())

    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reply = asked

        async def aforward(self, **inputs: Any) -> Any:
            await self.reply.acall(**inputs)
            return await self.reply.acall(**inputs)

    listener = StreamListener("answer", allow_reuse=True)
    pieces, _ = asyncio.run(heard(Twice(), [listener], {"message": "Hi", "category": "x"}))
    assert joined(pieces, "answer") == "Hello.\nconfused?" * 2


def test_a_listener_is_given_back_as_it_was() -> None:
    listener = StreamListener("answer", allow_reuse=True)
    asyncio.run(heard(pin(predictor(Reply, ANSWER), CompactAdapter()), [listener], {"message": "Hi", "category": "x"}))
    chat = predictor(Reply, ["[[ ##", " answer ## ]]\n", "Yes", "\n\n", "[[ ## ", "confidence ## ]]\n", "0.5\n\n[[ ## completed ## ]]"])
    listener.predict = chat
    pieces, _ = asyncio.run(heard(chat, [listener], {"message": "Hi", "category": "x"}))
    assert joined(pieces, "answer") == "Yes"


def test_a_stream_without_listeners_is_the_answer() -> None:
    asked = pin(predictor(signature_of({"q": str}, {"answer": str}), ["O", "ne"]), CompactAdapter())

    async def texts() -> list[Any]:
        return [part.choices[0].delta.content async for part in streamify(asked)(q="x") if hasattr(part, "choices")]

    assert asyncio.run(texts()) == ["O", "ne", None]
