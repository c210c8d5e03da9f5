"""Following a job: the event stream across broken connections, and waiting."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator

import httpx
import pytest

from stillhouse import APIConnectionError, APIError, WaitTimeout, _wait
from stillhouse.types import CompileJob
from tests.unit.client.conftest import job, reply, scripted, scripted_async


def event(number: int, kind: str = "log") -> str:
    data = json.dumps({"id": number, "created_at": 1, "type": kind, "message": f"m{number}", "level": "info", "data": {}})
    return f"id: {number}\r\nevent: {kind}\r\ndata: {data}\r\n\r\n"


def stream(*parts: str, broken: bool = False) -> httpx.Response:
    def chunks() -> Iterator[bytes]:
        for part in parts:
            yield part.encode()
        if broken:
            raise httpx.ReadError("gone")

    return httpx.Response(200, content=chunks(), headers={"content-type": "text/event-stream"})


class TestStream:
    def test_ends_after_done(self) -> None:
        client, script = scripted(stream(": ping\r\n\r\n", event(1), event(2, "done")))
        assert [one.id for one in client.compile_jobs.events.stream("cjob-1")] == [1, 2]
        assert len(script.requests) == 1
        assert "last-event-id" not in script.requests[0].headers

    def test_a_break_resumes_without_gap_or_repeat(self) -> None:
        first = stream(event(1), event(2), event(3)[:20], broken=True)
        client, script = scripted(first, stream(event(3), event(4, "done")))
        assert [one.id for one in client.compile_jobs.events.stream("cjob-1")] == [1, 2, 3, 4]
        assert script.requests[1].headers["last-event-id"] == "2"

    def test_a_stream_that_the_server_ends_early_is_reopened(self) -> None:
        client, script = scripted(stream(event(1)), stream(event(2, "done")))
        assert [one.id for one in client.compile_jobs.events.stream("cjob-1", after=0)] == [1, 2]
        assert [request.headers["last-event-id"] for request in script.requests] == ["0", "1"]

    def test_fifty_drops_anywhere_leave_no_gap_and_no_repeat(self) -> None:
        dice, drops, last = random.Random(7), 50, 300

        def answer(request: httpx.Request) -> httpx.Response:
            nonlocal drops
            seen = int(request.headers.get("last-event-id", 0))
            rest = "".join(event(number, "done" if number == last else "log") for number in range(seen + 1, last + 1))
            if drops == 0:
                return stream(rest)
            drops -= 1
            return stream(rest[: dice.randrange(5 * len(event(last)))], broken=dice.random() < 0.5)

        client, script = scripted(answer)
        assert [one.id for one in client.compile_jobs.events.stream("cjob-1")] == list(range(1, last + 1))
        assert (drops, len(script.requests)) == (0, 51)

    def test_204_is_the_end(self) -> None:
        client, _ = scripted(httpx.Response(204))
        assert list(client.compile_jobs.events.stream("cjob-1", after=9)) == []

    def test_a_server_that_stays_away_is_an_error(self) -> None:
        client, script = scripted(lambda _: stream(broken=True))
        with pytest.raises(APIConnectionError):
            list(client.compile_jobs.events.stream("cjob-1"))
        assert len(script.requests) == 6

    def test_async(self) -> None:
        async def go() -> list[int]:
            client, _ = scripted_async(httpx.Response(200, content=(event(1) + event(2, "done")).encode()))
            async with client:
                return [one.id async for one in client.compile_jobs.events.stream("cjob-1")]

        assert asyncio.run(go()) == [1, 2]


class TestWait:
    def test_polls_until_final(self) -> None:
        client, script = scripted(reply(job("queued")), reply(job("running")), reply(job("failed", error={"code": "x", "message": "y"})))
        seen: list[CompileJob] = []
        done = client.compile_jobs.wait("cjob-1", on_update=seen.append)
        assert (done.status, [one.status for one in seen]) == ("failed", ["queued", "running", "failed"])
        assert "wait" not in script.requests[0].url.params
        assert script.requests[1].url.params["wait"] == "30"

    def test_a_server_that_is_away_is_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_wait, "PAUSE_SECONDS", 0.0)
        away = [httpx.ConnectError("refused")] * 5
        client, script = scripted(reply(job("running")), *away, reply(status=502), reply(job("succeeded")))
        assert client.compile_jobs.wait("cjob-1").status == "succeeded"
        assert len(script.requests) == 8

        async def go() -> str:
            client, _ = scripted_async(reply(job("running")), *away, reply(job("succeeded")), max_retries=0)
            async with client:
                return (await client.compile_jobs.wait("cjob-1")).status

        assert asyncio.run(go()) == "succeeded"
        with pytest.raises(APIConnectionError):  # the first look: an address where nobody is
            scripted(httpx.ConnectError("refused"))[0].compile_jobs.wait("cjob-1")
        monkeypatch.setattr(_wait, "PATIENCE_SECONDS", -1.0)
        with pytest.raises(APIConnectionError):
            scripted(reply(job("running")), httpx.ConnectError("refused"))[0].compile_jobs.wait("cjob-1")

    def test_ends_when_the_time_is_over(self) -> None:
        client, _ = scripted(reply(job("running")))
        with pytest.raises(WaitTimeout) as raised:
            client.compile_jobs.wait("cjob-1", timeout=0)
        assert raised.value.status == "running"

    def test_async(self) -> None:
        async def go() -> str:
            client, _ = scripted_async(reply(job("running")), reply(job("succeeded")))
            async with client:
                return (await client.compile_jobs.wait("cjob-1")).status

        assert asyncio.run(go()) == "succeeded"


class TestChat:
    @staticmethod
    def piece(**body: object) -> str:
        return f"data: {json.dumps(body)}\n\n"

    def test_a_piece_ends_at_its_newline_and_nowhere_else(self) -> None:
        body = json.dumps({"choices": [{"delta": {"content": "one\u2028two"}}]}, ensure_ascii=False)
        client, _ = scripted(stream(f"data: {body}\r\n\r\n", "data: [DONE]\n\n"))
        assert list(client.chat.stream("m", [])) == ["one\u2028two"]

    def test_an_answer_that_stops_without_its_end_is_an_error(self) -> None:
        client, _ = scripted(stream(self.piece(choices=[{"delta": {"content": "one"}}])))
        pieces = client.chat.stream("m", [])
        assert next(pieces) == "one"
        with pytest.raises(APIConnectionError, match="broke off"):
            next(pieces)

    def test_an_error_in_the_stream_is_told(self) -> None:
        client, _ = scripted(stream(self.piece(error={"message": "the host went away"})))
        with pytest.raises(APIError, match="the host went away"):
            list(client.chat.stream("m", []))
