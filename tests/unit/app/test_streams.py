"""An LM host's stream, passed on event by event, and what of a stream is not passed on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import orjson
import pytest

from app.gateway.streams import LONGEST_EVENT, renamed, whole_events


class Host:
    """What an LM host sends, and how much of it was taken."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self.taken = 0
        self.is_closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            self.taken += len(chunk)
            return chunk
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.is_closed = True


def passed_on(host: Host) -> list[bytes]:
    async def read() -> list[bytes]:
        return [piece async for piece in whole_events(host, "house")]

    return asyncio.run(read())


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_an_event_goes_out_when_its_end_has_come_wherever_it_is_cut(end: bytes) -> None:
    whole = b"data: one" + end + b"data: two" + end
    assert passed_on(Host(whole[at : at + 1] for at in range(len(whole)))) == [b"data: one" + end, b"data: two" + end]
    assert passed_on(Host([whole[:5], whole[5:] + b"data: th", b"ree"])) == [whole, b"data: three"]


def test_an_event_that_does_not_end_is_an_error_and_the_host_is_left() -> None:
    host = Host([b"data: one\n\n", *[b"x" * 10_000] * 1000])
    first, last = passed_on(host)
    assert first == b"data: one\n\n"
    assert orjson.loads(last.removeprefix(b"data: "))["error"]["code"] == "too_large"
    assert host.taken <= LONGEST_EVENT + 20_000
    assert host.is_closed


def test_many_long_events_are_no_long_event() -> None:
    events = [b"data: " + b"x" * (LONGEST_EVENT // 2) + b"\n\n"] * 5
    assert b"".join(passed_on(Host(events))) == b"".join(events)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_hosts_name_of_a_model_becomes_its_id_and_nothing_else_changes(end: bytes) -> None:
    def events(model: bytes) -> bytes:
        said = b'data: {"model":"%s","choices":[{"delta":{"content":"\\"model\\":\\"tiny\\""}}]}' % model
        return b": heartbeat" + end + said + end + end + b'data: {"model":"tiny-2026"}' + end + end + b"data: [DONE]" + end + end

    async def read() -> list[bytes]:
        return [piece async for piece in renamed(whole_events(Host([events(b"tiny")]), "house"), "tiny", "house/tiny")]

    assert b"".join(asyncio.run(read())) == events(b"house/tiny")
