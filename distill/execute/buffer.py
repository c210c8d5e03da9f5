"""Facts on their way to the database: written in batches, from a thread of its own, so that rollouts never wait for a commit."""

import threading
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import Generic, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from distill.db import is_outage

T = TypeVar("T")

BATCH = 50
"""Twice as many may be unwritten at any time: this many that wait, and those that are being written."""
SECONDS = 0.5
IDLE_SECONDS = 2.0
"""After which, with nothing to write, `idle` is called."""
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0


class Buffer(Generic[T]):
    """Hands what is added to `write`, at `batch` items or half a second after the first, whichever comes first.

    Leaving the block writes the rest, also when the block raised: what was paid for is kept. While the database is away, `write` is tried
    again for `patience` seconds. Its last error, or any other, is raised by the next `add`, or at the end. `add` waits while twice a batch
    is unwritten. `idle` is called now and then while nothing is to be written, and raises nothing.
    """

    def __init__(
        self,
        write: Callable[[list[T]], None],
        *,
        batch: int = BATCH,
        seconds: float = SECONDS,
        patience: float = PATIENCE_SECONDS,
        pause: float = PAUSE_SECONDS,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._write, self._batch, self._seconds, self._idle = write, batch, seconds, idle
        self._retrying = Retrying(
            retry=retry_if_exception(is_outage),
            stop=stop_after_delay(patience),
            wait=wait_random_exponential(multiplier=pause, max=LONGEST_PAUSE_SECONDS),
            reraise=True,
        )
        self._writing = 0
        self._waiting: list[T] = []
        self._changed = threading.Condition()
        self._closed = False
        self._hurries = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="flush", daemon=True)

    def __enter__(self) -> "Buffer[T]":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        if error is None:
            self._raise()

    def add(self, item: T) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._has_room() or self._error is not None)
            self._raise()
            self._waiting.append(item)
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until all that was added is written. Raises as `add`."""
        with self._changed:
            self._hurries = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._waiting or self._writing) or self._error is not None)
            self._hurries = False
            self._raise()

    def _has_room(self) -> bool:
        return len(self._waiting) + self._writing < 2 * self._batch

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (batch := self._next()) != []:
            try:
                self._retrying(self._write, batch) if batch is not None else self._idle()
            except Exception as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return

    def _next(self) -> list[T] | None:
        """What is to be written now: nothing at the end, None where nothing has come for a while."""
        with self._changed:
            self._writing = 0
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: bool(self._waiting) or self._closed, timeout=IDLE_SECONDS):
                return None
            self._changed.wait_for(lambda: len(self._waiting) >= self._batch or self._hurries or self._closed, timeout=self._seconds)
            batch, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
            self._writing = len(batch)
            return batch
