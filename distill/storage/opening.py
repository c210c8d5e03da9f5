"""Opens the blob store that the settings name."""

from __future__ import annotations

from collections.abc import Callable

from distill.settings import Settings
from distill.storage.base import BlobStore
from distill.storage.cache import Cache
from distill.storage.folder import FolderStore


def open_store(settings: Settings, *, passing: Callable[[str], None] = lambda point: None) -> BlobStore:
    """`passing` is told where a write stands; tests die there."""
    where = settings.blobs
    if where.bucket is None:
        return FolderStore(settings.blob_root, passing=passing)
    from distill.storage.s3 import S3Store, connect  # takes a while to import

    cache = Cache(settings.home / "blob-cache", where.cache_gb * 1e9)
    return S3Store(connect(where), where.bucket, where.prefix, cache, passing)
