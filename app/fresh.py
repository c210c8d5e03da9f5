"""A value that is costly to read: read by one caller at a time, and kept for a while for all others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Fresh(Generic[T]):
    """Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: Future[T] | None = None
        self._read_at = 0.0

    def get(self, seconds: float, read: Callable[[], T]) -> T:
        """The value, at most `seconds` old. Whoever comes while it is read waits for it, and gets its error where it fails; who comes
        after a failure reads anew."""
        with self._lock:
            found = self._newest
            mine = found is None or self._is_stale(found, seconds)
            if found is None or mine:
                found = self._newest = Future()
        if mine:
            try:
                value = read()
            except BaseException as error:
                found.set_exception(error)
            else:
                self._read_at = time.monotonic()  # before it is seen to be done: it is judged by this
                found.set_result(value)
        return found.result()

    def _is_stale(self, found: Future[T], seconds: float) -> bool:
        return found.done() and (found.exception() is not None or time.monotonic() - self._read_at >= seconds)
