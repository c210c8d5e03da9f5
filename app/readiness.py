"""Whether the blob store answers, asked at most once at a time and every few seconds, whoever asks for it and however slow it is."""

from __future__ import annotations

import threading
import time

from distill.errors import StorageError, StorageUnavailable
from distill.storage import BlobStore

FRESH_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 3.0
"""A bucket's client tries for a minute; health checks give up earlier."""


class StoreCheck:
    """Safe to use from any thread."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._newest: _Probe | None = None

    def check(self) -> None:
        """Raises StorageError where the store does not answer in time, or is not there any more."""
        with self._lock:
            if self._newest is None or self._newest.is_stale():
                self._newest = _Probe(self._store, tied=self._newest is not None and self._newest.tied)
            probe = self._newest
        probe.result()


class _Probe:
    """`tied`: the store has the file that ties it to its database, or had it earlier."""

    def __init__(self, store: BlobStore, *, tied: bool) -> None:
        self._store = store
        self.tied = tied
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._fault: StorageError | None = None
        threading.Thread(target=self._run, name="store-check", daemon=True).start()

    def is_stale(self) -> bool:
        return self._ended.is_set() and time.monotonic() - self._began >= FRESH_SECONDS

    def result(self) -> None:
        if not self._ended.wait(LONGEST_WAIT_SECONDS):
            raise StorageUnavailable("the blob store does not answer in time")
        if self._fault is not None:
            raise self._fault

    def _run(self) -> None:
        try:
            owner = self._store.owner()
            if owner is None and self.tied:
                self._fault = StorageUnavailable(
                    "the blob store is empty or not mounted: it has lost the file that ties it to the database"
                )
            self.tied |= owner is not None
        except StorageError as fault:
            self._fault = fault
        finally:
            self._ended.set()
