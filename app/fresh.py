"""A value that is costly to read: read by one caller at a time, and kept for a while for all others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from distill.errors import Unavailable

T = TypeVar("T")
MOST_SECONDS = 10.0
"""How long Prometheus waits for a scrape, unless it is told another time."""


class Fresh(Generic[T]):
    """Safe to use from any thread. A caller waits for another's read for `most_seconds` at most."""

    def __init__(self, most_seconds: float = MOST_SECONDS) -> None:
        self._most_seconds = most_seconds
        self._lock = threading.Lock()
        self._newest: Future[T] | None = None
        self._read_at = 0.0

    def get(self, seconds: float, read: Callable[[], T]) -> T:
        """The value, at most `seconds` old. Whoever comes while it is read waits for it, and gets its error where it fails; who comes
        after a failure reads anew. Raises Unavailable where it takes too long; the next caller reads anew then."""
        with self._lock:
            found = self._newest
            mine = found is None or self._is_stale(found, seconds)
            if found is None or mine:
                found = self._newest = Future()
        if mine:
            self._read(found, read)
        elif not wait([found], self._most_seconds).done:
            with self._lock:
                if self._newest is found:
                    self._newest = None
            raise Unavailable(f"this takes longer than {self._most_seconds:g} seconds: try again later", code="too_slow")
        return found.result()

    def _read(self, into: Future[T], read: Callable[[], T]) -> None:
        try:
            value = read()
        except BaseException as error:
            into.set_exception(error)
            return
        with self._lock:  # before it is seen to be done: it is judged by this
            if self._newest is into:
                self._read_at = time.monotonic()
        into.set_result(value)

    def _is_stale(self, found: Future[T], seconds: float) -> bool:
        return found.done() and (found.exception() is not None or time.monotonic() - self._read_at >= seconds)
