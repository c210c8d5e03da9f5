"""Waiting for a job, or for a server that is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from stillhouse._exceptions import APIConnectionError, RateLimitError, ServerError, WaitTimeout
from stillhouse.types import CompileJob

T = TypeVar("T")
_LONGEST_POLL = 30.0
_AWAY = (APIConnectionError, ServerError, RateLimitError)
PATIENCE_SECONDS = 600.0
PAUSE_SECONDS = 2.0


def patiently(ask: Callable[[], T], pause: Callable[[float], object] = time.sleep) -> T:
    """What `ask` returns. While the server is away it is asked again, for ten minutes, or until `pause` returns true."""
    began = time.monotonic()
    while True:
        try:
            return ask()
        except _AWAY:
            if time.monotonic() - began > PATIENCE_SECONDS or pause(PAUSE_SECONDS):
                raise


async def apatiently(ask: Callable[[], Awaitable[T]]) -> T:
    """`patiently`, awaited."""
    began = time.monotonic()
    while True:
        try:
            return await ask()
        except _AWAY:
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise
            await asyncio.sleep(PAUSE_SECONDS)


class Deadline:
    """Cuts a wait into long polls of at most 30 s."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._began = time.monotonic()

    def next_wait(self, job: CompileJob) -> float:
        """Seconds to ask the server to hold the next poll. Raises WaitTimeout when none are left."""
        if self._seconds is None:
            return _LONGEST_POLL
        left = self._seconds - (time.monotonic() - self._began)
        if left <= 0:
            raise WaitTimeout(job.id, job.status, self._seconds)
        return max(1.0, min(_LONGEST_POLL, left))
