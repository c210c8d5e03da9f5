"""An artifact as one tar.gz, made while it is sent: nothing of it is held in memory, and the same files give the same bytes."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

from distill.storage import FolderStore

_CHUNK = 1 << 18


class _Pipe(io.RawIOBase):
    """What the compressor writes, to be taken out again."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def archive(store: FolderStore, files: Mapping[str, Mapping[str, Any]]) -> Iterator[bytes]:
    """Chunks of a tar.gz with `{path: {"digest", "size_bytes"}}`, sorted by path. Raises StorageError when a blob is missing."""
    pipe = _Pipe()
    with gzip.GzipFile(filename="", mode="wb", fileobj=pipe, mtime=0, compresslevel=1) as zipped:
        for path in sorted(files):
            yield from _entry(store, path, files[path], zipped, pipe)
        zipped.write(b"\0" * tarfile.BLOCKSIZE * 2)
    yield pipe.take()


def _entry(store: FolderStore, path: str, entry: Mapping[str, Any], zipped: gzip.GzipFile, pipe: _Pipe) -> Iterator[bytes]:
    info = tarfile.TarInfo(path)
    info.size, info.mode, info.mtime = int(entry["size_bytes"]), 0o644, 0
    zipped.write(info.tobuf(tarfile.PAX_FORMAT))
    with store.path(entry["digest"]).open("rb") as source:
        while chunk := source.read(_CHUNK):
            zipped.write(chunk)
            yield pipe.take()
    zipped.write(b"\0" * (-info.size % tarfile.BLOCKSIZE))
