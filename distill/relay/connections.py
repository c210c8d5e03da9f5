"""Connections that runners hold to the relay. Users' code holds them, and each costs this process an open file, so that each runner has a
bound of its own, and all have one together."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager

from distill.relay.limiter import Waiting

if sys.platform != "win32":
    import resource

_ALWAYS = 8
"""Connections that a runner may hold though all together hold as many as they may."""
_MANY_FILES = 65536


def connections_for(share: int) -> int:
    """How many connections all runners may hold that get one `share`th of the files that this process may open."""
    if sys.platform == "win32":
        return 512
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (_MANY_FILES if files == resource.RLIM_INFINITY else min(files, _MANY_FILES)) // share


class TooManyConnections(OSError):
    """A runner holds as many connections as it may."""


class Total:
    """The connections of all runners of a process. `each`: how many one of them may hold."""

    def __init__(self, most: int, each: int) -> None:
        self._most, self.each = most, each
        self._lock = threading.Lock()
        self._used = 0

    def add(self, runner: RunnerConnections) -> None:
        """Count one more. Raises TooManyConnections."""
        with self._lock:
            if runner.used >= self.each or (self._used >= self._most and runner.used >= _ALWAYS):
                raise TooManyConnections(f"a runner holds {runner.used} connections to the relay, and gets no more")
            runner.used += 1
            self._used += 1

    def remove(self, runner: RunnerConnections) -> None:
        with self._lock:
            runner.used -= 1
            self._used -= 1


class RunnerConnections:
    """Those of one runner. `serve` takes the relay's end of a new one, and closes it when it raises OSError."""

    def __init__(self, total: Total, serve: Callable[[socket.socket, RunnerConnections], None], body_bytes: int) -> None:
        self._total, self._serve = total, serve
        self.free_bytes, self._body_bytes = body_bytes, body_bytes
        self._changed = asyncio.Condition()
        self.used = 0

    @property
    def most(self) -> int:
        return self._total.each

    def connect(self) -> socket.socket:
        """The runner's end of a new connection. Thread-safe. Raises TooManyConnections; OSError where the relay takes none."""
        self._total.add(self)
        try:
            ours, theirs = socket.socketpair()
            try:
                self._serve(ours, self)
            except OSError:
                theirs.close()
                raise
        except OSError:
            self.closed()
            raise
        return theirs

    def closed(self) -> None:
        """One of them is closed. Thread-safe."""
        self._total.remove(self)

    @asynccontextmanager
    async def room_for(self, body_bytes: int, waiting: Waiting) -> AsyncIterator[None]:
        """Wait until the bodies of its requests leave room for one more, and hold it; `waiting` counts that time. From the relay's own
        loop only."""
        size = min(body_bytes, self._body_bytes)
        async with self._changed:
            with waiting.counting():
                await self._changed.wait_for(lambda: self.free_bytes >= size)
            self.free_bytes -= size
        try:
            yield
        finally:
            self.free_bytes += size
            async with self._changed:
                self._changed.notify_all()


class Served(asyncio.Protocol):
    """Passes a connection on to the protocol that serves it, and notes whose it is for as long as it is open."""

    def __init__(
        self, inner: asyncio.Protocol, runner: RunnerConnections, runners: MutableMapping[asyncio.BaseTransport, RunnerConnections]
    ) -> None:
        self._inner, self._runner, self._runners = inner, runner, runners
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._runners[transport] = self._runner
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            del self._runners[self._transport]
        self._runner.closed()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
