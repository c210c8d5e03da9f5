"""How many calls one connection has in flight, over all grants and all event loops of the process."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


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
            while self._waiting and self.used <= self.limit:
                loop, turn = self._waiting.popleft()
                try:
                    loop.call_soon_threadsafe(self._give, turn)
                except RuntimeError:  # that loop is closed
                    continue
                return
            self.used -= 1

    def _give(self, turn: asyncio.Future[None]) -> None:
        if turn.done():  # cancelled while the place was on its way
            self.release()
        else:
            turn.set_result(None)

    def _forget(self, loop: asyncio.AbstractEventLoop, turn: asyncio.Future[None]) -> None:
        with self._lock:
            if (loop, turn) in self._waiting:
                self._waiting.remove((loop, turn))
