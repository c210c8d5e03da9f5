"""Opens the blob store that the settings name."""

from __future__ import annotations

from collections.abc import Callable

from distill.settings import Settings
from distill.storage.base import BlobStore
from distill.storage.folder import FolderStore


def open_store(settings: Settings, *, passing: Callable[[str], None] = lambda point: None) -> BlobStore:
    """`passing` is told where a write stands; tests die there."""
    return FolderStore(settings.blob_root, passing=passing)
