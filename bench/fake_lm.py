"""An OpenAI-compatible LM on a loopback port that always gives the same answer after a fixed time, for almost no CPU.

`python -m bench.fake_lm --latency 0.2` writes its port and serves; `GET /stats` gives what it saw and forgets the peak.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Self, cast

import uvloop

from bench.side import ROOT

ANSWER = "place"
_TEXT = f"[[ ## category ## ]]\n{ANSWER}\n\n[[ ## completed ## ]]\n"
_USAGE = {"prompt_tokens": 200, "completion_tokens": 20, "total_tokens": 220}
_CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": _TEXT}}
_BODY = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake", "choices": [_CHOICE], "usage": _USAGE}


def _reply(body: Mapping[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(content), content)


_ANSWER = _reply(_BODY)


class Counts:
    """Requests so far, those in flight, and the most in flight since somebody asked."""

    def __init__(self) -> None:
        self.served = self.in_flight = self.peak = 0

    def begin(self) -> None:
        self.served += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)

    def read(self) -> dict[str, int]:
        found = {"served": self.served, "peak": self.peak}
        self.peak = self.in_flight
        return found


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive: bodies with a content-length, which all clients measured here send."""

    def __init__(self, counts: Counts, latency: float) -> None:
        self._counts, self._latency = counts, latency
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._request_end()) is not None:
            is_stats = self._buffer.startswith(b"GET")
            self._buffer = self._buffer[end:]
            self._stats() if is_stats else self._chat()

    def _request_end(self) -> int | None:
        """Where the first request ends, once it is all there."""
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        _, found, rest = self._buffer[:head_end].lower().partition(b"content-length:")
        end = head_end + 4 + (int(rest.split(b"\r\n", 1)[0]) if found else 0)
        return end if len(self._buffer) >= end else None

    def _stats(self) -> None:
        if self._transport is not None:
            self._transport.write(_reply(self._counts.read()))

    def _chat(self) -> None:
        self._counts.begin()
        if self._latency:
            asyncio.get_running_loop().call_later(self._latency, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        self._counts.in_flight -= 1
        if self._transport is not None:
            self._transport.write(_ANSWER)


class FakeLM:
    """The server as a process, for as long as the block lasts. `latency` is in seconds."""

    def __init__(self, latency: float, environment: Mapping[str, str]) -> None:
        self.latency = latency
        command = [sys.executable, "-m", "bench.fake_lm", "--latency", str(latency)]
        environ = dict(environment)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environ, start_new_session=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, int]:
        """`served` so far, and the `peak` in flight since the last look."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", "/stats")
            found: dict[str, int] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return found


async def _serve(latency: float) -> None:
    counts = Counts()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(counts, latency), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve one answer to every chat completion.")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    uvloop.run(_serve(parser.parse_args().latency))


if __name__ == "__main__":
    main()
