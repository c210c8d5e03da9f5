"""When keys were last used: noted by requests, written by a thread of its own, so that no request waits for it or fails with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from distill.catalog import keys
from distill.db import is_outage, unit_of_work

log = structlog.get_logger(__name__)

PERIOD_SECONDS = 10.0


class KeyUse:
    """Thread-safe. What was noted and not yet written is lost with the process: at most the last ten seconds."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def note(self, key_id: str) -> None:
        """A key was used just now."""
        with self._lock:
            self._used.add(key_id)

    @contextmanager
    def written(self) -> Iterator[None]:
        """While the block runs, what is noted is written every ten seconds, and at its end once more."""
        thread = threading.Thread(target=self._run, name="key-use", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_SECONDS):
            self._write()
        self._write()

    def _write(self) -> None:
        with self._lock:
            used, self._used = self._used, set()
        if not used:
            return
        try:
            with unit_of_work("api") as session:
                keys.note_use(session, used)
        except Exception as error:  # nothing here is worth the end of the thread
            log.warning("key_use_not_written", keys=len(used), error=type(error).__name__, exc_info=not is_outage(error))
