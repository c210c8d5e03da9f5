"""Which files have been read and found to be what their name says."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from typing import BinaryIO

from distill.storage.base import CHUNK, damaged

AGAIN_AFTER_SECONDS = 600.0
"""Bits may rot under a file whose facts do not change."""
MOST = 20_000
_YOUNG_SECONDS = 2.0
_Facts = tuple[int, int, int, int]


class Checked:
    """Remembers by the facts of the file (inode, size, times of change), so that a file that was touched at all is read again.

    A file that changed a moment ago is not remembered: it could change once more within the same tick of the file system's clock.
    """

    def __init__(self) -> None:
        self._good: OrderedDict[str, tuple[_Facts, float]] = OrderedDict()
        self._lock = threading.Lock()

    def ensure(self, digest: str, file: BinaryIO) -> None:
        """Leaves the file at its beginning. Raises StorageError when its bytes have another digest."""
        facts = _facts(file)
        if self._knows(digest, facts):
            return
        if _digest(file) != digest:
            raise damaged(digest)
        if time.time() - facts[3] / 1e9 > _YOUNG_SECONDS:
            self._remember(digest, facts)

    def _knows(self, digest: str, facts: _Facts) -> bool:
        with self._lock:
            known = self._good.get(digest)
        return known is not None and known[0] == facts and time.monotonic() - known[1] < AGAIN_AFTER_SECONDS

    def _remember(self, digest: str, facts: _Facts) -> None:
        with self._lock:
            self._good[digest] = (facts, time.monotonic())
            self._good.move_to_end(digest)
            while len(self._good) > MOST:
                self._good.popitem(last=False)


def _digest(file: BinaryIO) -> str:
    found = hashlib.sha256()
    while chunk := file.read(CHUNK):
        found.update(chunk)
    file.seek(0)
    return "sha256:" + found.hexdigest()


def _facts(file: BinaryIO) -> _Facts:
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
