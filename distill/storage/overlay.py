"""A store on top of another: what is put lands in a folder of its own, and goes with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from distill.scratch import make_folder
from distill.storage.base import BlobStore, Stored
from distill.storage.folder import FolderStore


class Overlay(FolderStore):
    """Reads what is in the folder, else what is below; writes to the folder alone."""

    def __init__(self, below: BlobStore, folder: Path) -> None:
        super().__init__(folder, lasting=False)
        self._below = below

    def open(self, digest: str) -> BinaryIO:
        return super().open(digest) if self._has(digest) else self._below.open(digest)

    def path(self, digest: str) -> Path:
        return super().path(digest) if self._has(digest) else self._below.path(digest)

    def stat(self, digest: str) -> Stored:
        return super().stat(digest) if self._has(digest) else self._below.stat(digest)

    def _has(self, digest: str) -> bool:
        return self.place(digest).is_file()


@contextmanager
def overlay(below: BlobStore) -> Iterator[Overlay]:
    """For what nobody keeps: the folder is removed when the block ends."""
    folder = make_folder("overlay")
    try:
        yield Overlay(below, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
