"""The relay's door for the gateway, `forward`, against a scripted LM host."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from distill.relay import CHAT, Relay, Target
from tests.support.scripted_lm import Drip, Fail, ScriptedLM
from tests.unit.relay.support import BODY, target


class TestForward:
    def run(self, relay: Relay, work: Callable[[], Awaitable[Any]]) -> Any:
        async def whole() -> Any:
            try:
                return await work()
            finally:
                await relay.close_here()

        return asyncio.run(whole())

    def test_streams_bytes_as_they_come(self, relay: Relay) -> None:
        async def work() -> bytes:
            reply = await relay.forward(target(lm), BODY, stream=True)
            assert isinstance(reply.stream, AsyncIterator)
            return b"".join([chunk async for chunk in reply.stream])

        with ScriptedLM(answer=lambda ask: Drip("one two three", 0.001)) as lm:
            text = self.run(relay, work)
        assert text.count(b'"content"') == 3
        assert text.endswith(b"data: [DONE]\n\n")

    def test_closing_a_stream_early_gives_its_place_back(self, relay: Relay) -> None:
        async def work() -> list[int]:
            one_place = target(lm, max_in_flight=1)
            for _ in range(2):
                reply = await relay.forward(one_place, BODY, stream=True)
                assert reply.stream is not None
                await reply.stream.aclose()
            return [(await relay.forward(one_place, BODY)).status]

        with ScriptedLM(answer=lambda ask: "fine" if ask.n == 2 else Drip("a b c d", 0.05)) as lm:
            assert self.run(relay, work) == [200]

    def test_stream_that_is_dropped_gives_its_place_back(self, relay: Relay) -> None:
        async def work() -> int:
            one_place = target(lm, max_in_flight=1)
            reply = await relay.forward(one_place, BODY, stream=True)
            assert reply.stream is not None
            await anext(reply.stream)
            del reply
            async with asyncio.timeout(60):
                return (await relay.forward(one_place, BODY)).status

        with ScriptedLM(answer=lambda ask: "fine" if ask.n else Drip("a b c d", 0.05)) as lm:
            assert self.run(relay, work) == 200

    def test_error_of_the_host_keeps_its_body_and_status(self, relay: Relay) -> None:
        async def work() -> Any:
            return await relay.forward(target(lm), BODY, stream=True)

        with ScriptedLM(answer=lambda ask: Fail(400, "context_length_exceeded", "too long")) as lm:
            reply = self.run(relay, work)
        assert (reply.status, reply.stream, json.loads(reply.body)["error"]["code"]) == (400, None, "context_length_exceeded")


class TestTargets:
    @pytest.mark.parametrize(
        ("base_url", "url"),
        [
            ("http://h:1", "http://h:1/v1/chat/completions"),
            ("http://h:1/v1/", "http://h:1/v1/chat/completions"),
            ("https://h/openai/v1beta", "https://h/openai/v1beta/chat/completions"),
        ],
    )
    def test_url(self, base_url: str, url: str) -> None:
        assert Target("c", base_url, "m").url(CHAT) == url
