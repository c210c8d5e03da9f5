"""Collects unused blobs, erases deleted objects and carries out retention in a thread beside the dispatcher.

A slow store holds up no hint and no reaping.
"""

from __future__ import annotations

import structlog
from sqlalchemy.exc import SQLAlchemyError

from distill.db import unit_of_work
from distill.errors import StillhouseError
from distill.jobs import collecting, erasing, retention
from distill.periodic import PeriodicThread
from distill.settings import TimerSettings
from distill.storage import BlobStore
from migrations.runner import check_schema

log = structlog.get_logger(__name__)
_LOOK_SECONDS = 60.0


class Collector:
    """Ends with its process, at any moment: a removal that was cut off is done again by the next round."""

    def __init__(self, store: BlobStore, timers: TimerSettings) -> None:
        self._store, self._timers = store, timers
        self._thread = PeriodicThread("collector", min(timers.collect_period_seconds, _LOOK_SECONDS), self.round)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Blocks until the blob at hand is done."""
        self._thread.stop()

    def round(self) -> None:
        """Lost servers are waited for, until the next round; so is the schema of this version: columns that it does not know may point at
        blobs."""
        timers = self._timers
        try:
            with unit_of_work() as s:
                check_schema(s)
            if erased := erasing.carry_out(self._store, self._thread.stopping):
                log.info("erasures carried out", number=erased)
            retention.carry_out(timers.collect_period_seconds, self._thread.stopping)
            done = collecting.collect(self._store, timers.collect_after_seconds, timers.collect_period_seconds, self._thread.stopping)
        except (StillhouseError, SQLAlchemyError, OSError) as error:
            log.warning("blobs not collected", error=str(error), kind=type(error).__name__)
            return
        except Exception:  # whatever it is, the thread goes on with the next round
            log.exception("blobs not collected")
            return
        if done is not None and (done.blobs or done.unfinished):
            log.info("blobs collected", blobs=done.blobs, size_bytes=done.size_bytes, unfinished=done.unfinished)
