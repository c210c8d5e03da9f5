"""How many calls one connection has in flight, over all grants and all event loops of the process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress


class Waiting:
    """How long the calls of one rollout have waited for their places. A moment in which several wait counts once. For one event loop."""

    def __init__(self) -> None:
        self._waiting = 0
        self._since = 0.0
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """So far, calls that still wait included."""
        return self._seconds + (time.monotonic() - self._since if self._waiting else 0.0)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Around one call's wait."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._seconds += time.monotonic() - self._since


class InFlight:
    """A first come, first served semaphore that event loops in different threads may share."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._lock = threading.Lock()
        self._waiting: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        await self.acquire()
        try:
            yield
        finally:
            self.release()

    async def acquire(self) -> None:
        loop = asyncio.get_running_loop()
        with self._lock:
            if self.used < self.limit and not self._waiting:
                self.used += 1
                return
            turn = loop.create_future()
            self._waiting.append((loop, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            else:
                self._forget(loop, turn)
            raise

    def release(self) -> None:
        """Hand the place to the next in line, or free it."""
        with self._lock:
            self.used -= 1
            self._admit()

    def resize(self, limit: int) -> None:
        """Change the limit. A higher one lets in who waits; with a lower one, places that are left stay empty until it holds."""
        with self._lock:
            self.limit = limit
            self._admit()

    def _admit(self) -> None:
        """Give free places to those who wait, in their order. The caller holds the lock."""
        while self._waiting and self.used < self.limit:
            loop, turn = self._waiting.popleft()
            with suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(self._give, turn)
                self.used += 1

    def _give(self, turn: asyncio.Future[None]) -> None:
        if turn.done():  # cancelled while the place was on its way
            self.release()
        else:
            turn.set_result(None)

    def _forget(self, loop: asyncio.AbstractEventLoop, turn: asyncio.Future[None]) -> None:
        with self._lock:
            if (loop, turn) in self._waiting:
                self._waiting.remove((loop, turn))
