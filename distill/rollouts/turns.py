"""Turns at a few processes that all projects share: code of one that holds its own for long leaves some to the others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Thread-safe. At most `most` at once, and of one project one less, where there are more than one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running = Counter[str]()
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, project: str, seconds: float) -> Iterator[None]:
        """Wait for a turn, and hold it for as long as the block lasts. Raises TimeoutError when none was free for so long."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_free(project), seconds):
                raise TimeoutError("the program host is busy")
            self._running[project] += 1
        try:
            yield
        finally:
            with self._changed:
                self._running[project] -= 1
                self._running += Counter()  # forgets those that have none
                self._changed.notify_all()

    def _is_free(self, project: str) -> bool:
        return self._running.total() < self._most and self._running[project] < max(1, self._most - 1)
