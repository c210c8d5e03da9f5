"""Streaming of compact answers through dspy's own listeners; what is streamed of a field is in test_compact_differential.py."""

import asyncio
from typing import Any

import dspy
import pytest
from dspy.streaming import StreamListener, streamify

from stillhouse_programs import prompts
from stillhouse_programs.compact import CompactAdapter
from stillhouse_programs.pinning import pin
from tests.unit.programs.compact_calls import signature_of
from tests.unit.programs.compact_stream import heard, joined, predictor
from tests.unit.programs.samples import Reply

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
