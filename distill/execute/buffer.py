"""Facts on their way to the database: written in batches, from a thread of its own, so that rollouts never wait for a commit."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

BATCH = 100
SECONDS = 0.5
BACKLOG = 20 * BATCH


class Buffer(Generic[T]):
    """Hands what is added to `write`, at 100 items or half a second after the first, whichever comes first.

    Leaving the block writes the rest, also when the block raised: what was paid for is kept. An error of `write` is raised by the next
    `add`, or at the end. `add` waits while the backlog is long.
    """

    def __init__(self, write: Callable[[list[T]], None], *, batch: int = BATCH, seconds: float = SECONDS) -> None:
        self._write, self._batch, self._seconds = write, batch, seconds
        self._waiting: list[T] = []
        self._changed = threading.Condition()
        self._closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)

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
            self._changed.wait_for(lambda: len(self._waiting) < BACKLOG or self._error is not None)
            self._raise()
            self._waiting.append(item)
            self._changed.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while batch := self._next():
            try:
                self._write(batch)
            except Exception as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return

    def _next(self) -> list[T]:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
            self._changed.wait_for(lambda: len(self._waiting) >= self._batch or self._closed, timeout=self._seconds)
            batch, self._waiting = self._waiting, []
            self._changed.notify_all()
            return batch
