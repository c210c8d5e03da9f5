"""An artifact as one tar.gz, made while it is sent: nothing of it is held in memory, and the same files give the same bytes."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, BinaryIO

from distill.storage import BlobStore

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


def archive(store: BlobStore, files: Mapping[str, Mapping[str, Any]]) -> Iterator[bytes]:
    """Chunks of a tar.gz with `{path: {"digest", "size_bytes"}}`, sorted by path.

    All files are opened and checked here, before the first chunk is asked for: an answer that has begun is whole, and is sent to its
    end whatever becomes of the artifact meanwhile. Raises StorageError.
    """
    with ExitStack() as stack:
        opened = {path: stack.enter_context(store.open(files[path]["digest"])) for path in sorted(files)}
        return _chunks(opened, stack.pop_all())


def _chunks(files: Mapping[str, BinaryIO], stack: ExitStack) -> Iterator[bytes]:
    pipe = _Pipe()
    with stack, gzip.GzipFile(filename="", mode="wb", fileobj=pipe, mtime=0, compresslevel=1) as zipped:
        for path, file in files.items():
            yield from _entry(path, file, zipped, pipe)
        zipped.write(b"\0" * tarfile.BLOCKSIZE * 2)
    yield pipe.take()


def _entry(path: str, file: BinaryIO, zipped: gzip.GzipFile, pipe: _Pipe) -> Iterator[bytes]:
    info = tarfile.TarInfo(path)
    info.size, info.mode, info.mtime = os.fstat(file.fileno()).st_size, 0o644, 0
    zipped.write(info.tobuf(tarfile.PAX_FORMAT))
    while chunk := file.read(_CHUNK):
        zipped.write(chunk)
        yield pipe.take()
    zipped.write(b"\0" * (-info.size % tarfile.BLOCKSIZE))
