"""The blob store: bytes by their SHA-256, in a folder or in an S3 bucket. A blob is whole or absent, and checked whenever it is read."""

from distill.storage.base import BlobStore, BlobWriter, Source, Stored
from distill.storage.folder import FolderStore
from distill.storage.opening import open_store
from distill.storage.sources import put_folder

__all__ = ["BlobStore", "BlobWriter", "FolderStore", "Source", "Stored", "open_store", "put_folder"]
