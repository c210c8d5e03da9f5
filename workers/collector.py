"""Collects unused blobs, erases deleted objects and carries out retention in a thread beside the dispatcher.

A slow store holds up no hint and no reaping.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from distill.db import unit_of_work
from distill.errors import StillhouseError
from distill.jobs import collecting, copies, erasing, retention
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
        if self._carry_out("check of the schema", _check):
            self._carry_out("erasures", self._erase)
            self._carry_out("retention", self._retain)
            self._carry_out("collection of blobs", self._collect)
            self._carry_out("reading of training files", self._read)

    def _carry_out(self, what: str, act: Callable[[], None]) -> bool:
        """Whether it did not fail. What fails is logged, holds up nothing else, and is tried again in the next round."""
        try:
            act()
        except (StillhouseError, SQLAlchemyError, OSError) as error:
            log.warning("not carried out", what=what, error=str(error), kind=type(error).__name__)
        except Exception:  # whatever it is, the thread goes on
            log.exception("not carried out", what=what)
        else:
            return True
        return False

    def _erase(self) -> None:
        if erased := erasing.carry_out(self._store, self._thread.stopping):
            log.info("erasures carried out", number=erased)

    def _retain(self) -> None:
        retention.carry_out(self._timers.collect_period_seconds, self._thread.stopping)

    def _collect(self) -> None:
        timers = self._timers
        done = collecting.collect(self._store, timers.collect_after_seconds, timers.collect_period_seconds, self._thread.stopping)
        if done is not None and (done.blobs or done.unfinished):
            log.info("blobs collected", blobs=done.blobs, size_bytes=done.size_bytes, unfinished=done.unfinished)

    def _read(self) -> None:
        copies.read_new(self._store, self._thread.stopping)


def _check() -> None:
    with unit_of_work() as s:
        check_schema(s)
