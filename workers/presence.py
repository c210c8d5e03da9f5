"""A worker says that it is there, from time to time, for those who want to know why nothing runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

import structlog
from sqlalchemy.exc import SQLAlchemyError

from distill import VERSION
from distill.db import Session, unit_of_work
from distill.jobs import workers
from distill.jobs.claims import WorkerInfo

log = structlog.get_logger(__name__)
LAST_WORD_SECONDS = 3


class Presence:
    """From `begin` to `end`; a database that is away for a while is no reason to stop."""

    def __init__(self, worker: WorkerInfo, queues: Collection[str], threads: int, seconds: float) -> None:
        self._worker, self._queues, self._threads, self._seconds = worker, queues, threads, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def begin(self) -> None:
        """Says it for the first time before it returns."""
        self._say_seen()
        self._thread.start()

    def end(self) -> None:
        """It claims nothing any more. May be called more than once, and from a signal handler: it waits for nothing."""
        self._over.set()

    def wait(self) -> None:
        """After `end`: until the last word is said, if that takes no longer than a moment."""
        self._thread.join(LAST_WORD_SECONDS)

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            self._say_seen()
        self._say(lambda s: workers.gone(s, self._worker.name))

    def _say_seen(self) -> None:
        self._say(lambda s: workers.seen(s, self._worker.name, self._queues, self._worker.capabilities, self._threads, VERSION))

    def _say(self, what: Callable[[Session], None]) -> None:
        try:
            with unit_of_work() as s:
                what(s)
        except SQLAlchemyError as error:
            log.warning("presence_not_told", error=str(error))
