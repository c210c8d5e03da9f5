"""Blobs in a folder, named by their SHA-256. A blob is whole or absent: temporary file → fsync → rename → fsync of the folders."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from distill.errors import StorageError

_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")
_CHUNK = 1 << 20
Source = bytes | Path | BinaryIO | Iterable[bytes]


class BlobWriter:
    """A blob being written. Its digest and size are known once the `with` block of `FolderStore.writer` has ended."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        """Raises StorageError when the disk refuses."""
        with _disk_errors():
            self._file.write(data)
        self._hash.update(data)
        self.size_bytes += len(data)

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()


class FolderStore:
    """Blobs under `root/ab/cdef…`. Safe for many processes: the same bytes have the same name."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._lasting: set[str] = set()

    def put(self, source: Source) -> str:
        """Store bytes, a file, a stream or chunks; returns `sha256:…`. Raises StorageError when the disk refuses."""
        with self.writer() as out:
            for chunk in _chunks(source):
                out.write(chunk)
        return out.digest

    @contextmanager
    def writer(self) -> Iterator[BlobWriter]:
        """Write a blob piece by piece; nothing is left behind when the block raises."""
        with _disk_errors():
            temporary = self._temporary()
            file = temporary.open("xb")
        try:
            with file:
                out = BlobWriter(file)
                yield out
                with _disk_errors():
                    file.flush()
                    os.fsync(file.fileno())
            with _disk_errors():
                self._publish(temporary, out.digest)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def exists(self, digest: str) -> bool:
        return self._place(digest).is_file()

    def size(self, digest: str) -> int:
        """Bytes. Raises StorageError when the blob is missing."""
        return self.path(digest).stat().st_size

    def path(self, digest: str) -> Path:
        """Where the blob's file is, for reading only; its bytes are not checked (see `verify`). Raises StorageError when missing."""
        place = self._place(digest)
        if not place.is_file():
            raise StorageError(f"blob {digest} is missing", code="blob_missing")
        return place

    def open(self, digest: str) -> BinaryIO:
        """Open a blob whose bytes have been checked against its digest. Raises StorageError."""
        self.verify(digest)
        return self.path(digest).open("rb")

    def read(self, digest: str) -> bytes:
        """A whole blob, checked. For small ones."""
        data = self.path(digest).read_bytes()
        if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
            raise _damaged(digest)
        return data

    def verify(self, digest: str) -> None:
        """Raises StorageError when the blob is missing or its bytes are not what its name says."""
        with self.path(digest).open("rb") as file:
            if "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise _damaged(digest)

    def claim_for(self, store_id: str) -> None:
        """Tie an empty store to a database, or check that it is tied to this one. Raises StorageError otherwise."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError), (self.root / "store-id").open("x", encoding="ascii") as file:
            file.write(store_id)
            file.flush()
            os.fsync(file.fileno())
        found = (self.root / "store-id").read_text(encoding="ascii").strip()
        if found != store_id:
            raise StorageError(f"the blob store at {self.root} belongs to database {found}, not {store_id}", code="wrong_store")

    def _place(self, digest: str) -> Path:
        if not _DIGEST.match(digest):
            raise StorageError(f"not a blob's digest: {digest[:80]!r}", code="blob_missing")
        name = digest.removeprefix("sha256:")
        return self.root / name[:2] / name[2:]

    def _temporary(self) -> Path:
        folder = self.root / "incoming"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / secrets.token_hex(16)

    def _publish(self, temporary: Path, digest: str) -> None:
        place = self._place(digest)
        if place.is_file():
            return
        self._make_lasting(place.parent)
        temporary.rename(place)
        _sync_folder(place.parent)

    def _make_lasting(self, folder: Path) -> None:
        """Once a process, whoever made the folder: another process may not have got as far as its fsync."""
        if folder.name not in self._lasting:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _sync_folder(self.root)
            self._lasting.add(folder.name)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Only around our own calls: an OSError of whoever feeds the writer (a lost client) is theirs."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write a blob: {error.strerror}") from error


def _chunks(source: Source) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
    elif isinstance(source, Path):
        with source.open("rb") as file:
            yield from iter(lambda: file.read(_CHUNK), b"")
    elif hasattr(source, "read"):
        yield from iter(lambda: source.read(_CHUNK), b"")
    else:
        yield from source


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damaged(digest: str) -> StorageError:
    return StorageError(f"blob {digest} is damaged: its bytes have another digest", code="blob_damaged")
