"""How many connections a project may hold open, by event streams and reads that wait: this process takes only so many in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from distill.errors import LimitExceeded


class StreamLimit:
    """Of one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextmanager
    def counted(self, project_id: str) -> Iterator[None]:
        """Count one while the block runs. Raises LimitExceeded where the project may hold no more."""
        if self._open[project_id] >= self._most:
            message = (
                f"This project has {self._most} event streams and reads with ?wait= open ([limits] event_streams). "
                "Close one, or read the job without ?wait=."
            )
            raise LimitExceeded(message, code="too_many_streams", retry_after=5)
        self._open[project_id] += 1
        try:
            yield
        finally:
            self._open[project_id] -= 1
            if not self._open[project_id]:
                del self._open[project_id]
