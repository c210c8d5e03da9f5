"""Copies of blobs on this machine's disk, for a store that is elsewhere."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from distill.errors import StorageError
from distill.storage.base import BlobWriter
from distill.storage.folder import FolderStore

SPARED_SECONDS = 3600.0
"""What was asked for within this time stays, however full the cache is: somebody may be about to open it by its path."""
_TOUCH_AFTER_SECONDS = 600.0
"""A touch has the bytes hashed once more, so not every use touches."""
_ABANDONED_SECONDS = 86_400.0
_LOOK_EVERY = 20
"""The folder is looked through whenever a twentieth of its limit was written."""


class Cache:
    """A folder store that may lose anything at any time, and keeps below a size by giving up what was not used for longest.

    Many processes share it. A copy that a power cut has damaged is noticed, as every blob is, and fetched again.
    """

    def __init__(self, root: Path, most_bytes: float) -> None:
        self._copies = FolderStore(root, lasting=False)
        self._most = most_bytes
        self._written = self._most  # look once at the beginning
        self._lock = threading.Lock()

    def open(self, digest: str) -> BinaryIO | None:
        """None where there is no good copy."""
        with suppress(FileNotFoundError, StorageError):
            self._touch(digest)
            return self._copies.open(digest)
        return None

    def place(self, digest: str) -> Path:
        """Where a copy would be."""
        return self._copies.place(digest)

    @contextmanager
    def writer(self) -> Iterator[BlobWriter]:
        with self._copies.writer() as out:
            yield out
        self._grown(out.size_bytes)

    def drop(self, digest: str) -> None:
        self._copies.remove(digest)

    def _touch(self, digest: str) -> None:
        place = self._copies.place(digest)
        if time.time() - place.stat().st_mtime > _TOUCH_AFTER_SECONDS:
            os.utime(place)

    def _grown(self, size: int) -> None:
        with self._lock:
            self._written += size
            due = self._written >= self._most / _LOOK_EVERY
            if due:
                self._written = 0.0
        if due:
            self.trim()

    def trim(self) -> None:
        """Remove what was not used for longest until the rest fits, and what killed writers have left."""
        now = time.time()
        self._copies.clear_unfinished(now - _ABANDONED_SECONDS)
        found = list(self._copies.listing())
        total = sum(blob.size_bytes for blob in found)
        for blob in sorted(found, key=lambda each: each.put_at):
            if total <= self._most or now - blob.put_at < SPARED_SECONDS:
                break
            self._copies.remove(blob.digest)
            total -= blob.size_bytes
