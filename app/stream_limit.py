"""How many event streams a project may have open: each holds one of the connections that this process takes."""

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

    def check(self, project_id: str) -> None:
        """Raises LimitExceeded where the project may open no more."""
        if self._open[project_id] >= self._most:
            message = (
                f"This project has {self._most} event streams open ([limits] event_streams). Close one, or read the job with ?wait=30."
            )
            raise LimitExceeded(message, code="too_many_streams", retry_after=5)

    @contextmanager
    def counted(self, project_id: str) -> Iterator[None]:
        self._open[project_id] += 1
        try:
            yield
        finally:
            self._open[project_id] -= 1
            if not self._open[project_id]:
                del self._open[project_id]
