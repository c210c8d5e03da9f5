"""A thread that does one thing again and again, until it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable


class PeriodicThread:
    """Calls `work` every so many seconds, first after one pause. It ends with its process. Long work looks at `stopping`."""

    def __init__(self, name: str, seconds: float, work: Callable[[], None]) -> None:
        self.stopping = threading.Event()
        self._seconds, self._work = seconds, work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Blocks until the work at hand has ended."""
        self.stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self.stopping.wait(self._seconds):
            self._work()
