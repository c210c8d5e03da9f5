"""What is stored: bytes, streams, and files that other programs have written, which are not believed to be what they seem."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from distill.errors import StorageError, StorageUnavailable

if TYPE_CHECKING:
    from distill.storage.base import BlobStore, Source

_CHUNK = 1 << 20
# A FIFO is opened without waiting for its other end.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What O_NOFOLLOW says of a symbolic link, and what a socket or a device without a driver answers.
_NOT_PLAIN = (errno.ELOOP, errno.ENXIO, errno.ENODEV)


def chunks(source: Source) -> Iterator[bytes]:
    """The bytes of a source, piece by piece. Raises StorageError for a path that is no regular file."""
    if isinstance(source, bytes):
        yield source
    elif isinstance(source, Path):
        with open_regular(str(source)) as file:
            yield from _pieces(file)
    elif hasattr(source, "read"):
        yield from _pieces(cast("BinaryIO", source))
    else:
        yield from source


def put_folder(store: BlobStore, folder: Path) -> dict[str, dict[str, Any]]:
    """Store every file below a folder: `{path inside it: {"digest", "size_bytes"}}`, sorted.

    Raises StorageError when something in it is no plain file of its own: a link (symbolic or hard), FIFO, socket or device may lead
    to what is not the folder's to give.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise _odd(folder.name)
    found: dict[str, dict[str, Any]] = {}
    for place, folders, names, handle in os.fwalk(folder, follow_symlinks=False, onerror=_refuse):
        inside = Path(place).relative_to(folder)
        for name in sorted(names + [each for each in folders if _is_link(each, handle)]):
            with open_regular(name, handle) as file, store.writer() as out:
                for chunk in _pieces(file):
                    out.write(chunk)
            found[str(inside / name)] = {"digest": out.digest, "size_bytes": out.size_bytes}
    return dict(sorted(found.items()))


def open_regular(name: str, folder: int | None = None) -> BinaryIO:
    """Open a regular file that has one name; the last part of its path is not followed. Raises StorageError for anything else."""
    shown = os.path.basename(name)
    try:
        handle = os.open(name, _FLAGS, dir_fd=folder)
    except OSError as error:
        raise _odd(shown) if error.errno in _NOT_PLAIN else StorageUnavailable(f"cannot read {shown}: {error.strerror}") from error
    file = os.fdopen(handle, "rb")
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
        file.close()
        raise _odd(shown)
    return file


def _pieces(file: BinaryIO) -> Iterable[bytes]:
    return iter(lambda: file.read(_CHUNK), b"")


def _is_link(name: str, folder: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _refuse(error: OSError) -> None:
    raise StorageUnavailable(f"cannot read the folder to store: {error.strerror}") from error


def _odd(name: str) -> StorageError:
    return StorageError(f"{name} is not a plain file: links, pipes and devices are not stored", code="not_a_file")
