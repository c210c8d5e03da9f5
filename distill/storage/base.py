"""What every blob store does."""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from distill.errors import StorageError
from distill.storage.sources import chunks

CHUNK = 1 << 20
Source = bytes | Path | BinaryIO | Iterable[bytes]
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob as its store knows it. `put_at` is when its bytes were last put, in seconds since 1970."""

    digest: str
    size_bytes: int
    put_at: float


class BlobWriter:
    """A blob being written. Its digest and size are known once the `with` block of `BlobStore.writer` has ended."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        """Raises StorageError when the disk refuses."""
        self._write(data)
        self._hash.update(data)
        self.size_bytes += len(data)

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()


class BlobStore(Protocol):
    """Safe for many threads and processes: the same bytes have the same name, and a name never changes its bytes.

    Everything raises StorageError: `blob_missing`, `blob_damaged` where the bytes are not what the name says; and StorageUnavailable.
    """

    @abstractmethod
    def __str__(self) -> str:
        """For the operator: what it is and where."""

    def put(self, source: Source) -> str:
        """Store bytes, a regular file, a stream or chunks; returns `sha256:…`. A blob that was there is as new again."""
        with self.writer() as out:
            for chunk in chunks(source):
                out.write(chunk)
        return out.digest

    @abstractmethod
    def writer(self) -> AbstractContextManager[BlobWriter]:
        """Write a blob piece by piece; nothing is left behind when the block raises."""

    @abstractmethod
    def open(self, digest: str) -> BinaryIO:
        """A file with the blob's bytes, which have been checked; may be read in any order."""

    @abstractmethod
    def path(self, digest: str) -> Path:
        """A file of this machine with the blob's bytes, which have been checked. For reading only."""

    def read(self, digest: str) -> bytes:
        """A whole blob. For small ones."""
        with self.open(digest) as file:
            return file.read()

    @abstractmethod
    def stat(self, digest: str) -> Stored:
        """What the store itself knows about a blob, wherever else a copy may be."""

    def size(self, digest: str) -> int:
        return self.stat(digest).size_bytes

    def exists(self, digest: str) -> bool:
        try:
            self.stat(digest)
        except StorageError as error:
            if error.code != "blob_missing":
                raise
            return False
        return True

    @abstractmethod
    def listing(self) -> Iterator[Stored]:
        """All blobs, in the order of their names."""

    @abstractmethod
    def remove(self, digest: str) -> None:
        """Take a blob away, if it is there. Whoever has it open reads it to its end."""

    @abstractmethod
    def clear_unfinished(self, before: float) -> int:
        """Remove what writers have left that were killed, begun before this time (seconds since 1970); returns how many."""

    @abstractmethod
    def owner(self) -> str | None:
        """The id of the database that the store belongs to; None for a new store."""

    @abstractmethod
    def claim_for(self, store_id: str) -> str:
        """Tie a new store to a database, at most once; returns the id of the one that it belongs to."""


def hexadecimal(digest: str) -> str:
    """The digits of a digest, for a name. Raises StorageError for anything else."""
    if not _DIGEST.match(digest):
        raise StorageError(f"not a blob's digest: {digest[:80]!r}", code="blob_missing")
    return digest.removeprefix("sha256:")


def missing(digest: str) -> StorageError:
    return StorageError(f"blob {digest} is missing", code="blob_missing")


def damaged(digest: str) -> StorageError:
    return StorageError(f"blob {digest} is damaged: its bytes have another digest", code="blob_damaged")
