"""The texts of rows in the blobs where prepare has left them, read in any order."""

import os
from collections import OrderedDict
from types import TracebackType
from typing import BinaryIO, Self

from distill.storage import BlobStore

OPEN_FILES = 256


class PartTexts:
    """Use it as a block. A blob's bytes are checked when it is opened; at most OPEN_FILES are open at a time."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._open: OrderedDict[str, BinaryIO] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def read(self, part: str, offset: int, length: int) -> bytes:
        """Raises StorageError for a blob that is missing or damaged."""
        file = self._open.get(part) or self._opened(part)
        self._open.move_to_end(part)
        return os.pread(file.fileno(), length, offset)

    def _opened(self, part: str) -> BinaryIO:
        if len(self._open) >= OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        self._open[part] = self._store.open(part)
        return self._open[part]
