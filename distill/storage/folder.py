"""Blobs in a folder, named by their SHA-256.

Temporary file in the same file system → fsync → rename → fsync of the folder. A crash at any point leaves a blob whole or absent.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import structlog

from distill.errors import StorageError, StorageUnavailable
from distill.storage.base import CHUNK, BlobStore, BlobWriter, Stored, hexadecimal, missing
from distill.storage.checked import Checked

log = structlog.get_logger(__name__)

Passing = Callable[[str], None]
_INCOMING = "incoming"
_OWNER = "store-id"


class FolderStore(BlobStore):
    """Blobs under `root/ab/cdef…`.

    `passing` is told where a write stands; tests die there. `lasting=False` leaves fsync out, for a cache.
    """

    def __init__(self, root: Path | str, *, passing: Passing = lambda point: None, lasting: bool = True) -> None:
        self.root = Path(root)
        self._passing, self._lasting = passing, lasting
        self._made: set[str] = set()
        self._checked = Checked()

    def __str__(self) -> str:
        return f"the blob store at {self.root}"

    @contextmanager
    def writer(self) -> Iterator[BlobWriter]:
        with _disk_errors():
            temporary = self._temporary()
            file = _NewFile(temporary)
        try:
            try:
                out = BlobWriter(file.write)
                yield out
                self._passing("blob.writing")
                file.finish(self._lasting)
            finally:
                file.give_up()
            self._passing("blob.synced")
            with _disk_errors():
                self._publish(temporary, hexadecimal(out.digest))
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        self._passing("blob.placed")

    def open(self, digest: str) -> BinaryIO:
        file = self._opened(digest)
        try:
            with _disk_errors("read"):
                self._checked.ensure(digest, file)
        except BaseException:
            file.close()
            raise
        return file

    def path(self, digest: str) -> Path:
        self.open(digest).close()
        return self.place(digest)

    def place(self, digest: str) -> Path:
        """Where a blob would be."""
        name = hexadecimal(digest)
        return self.root / name[:2] / name[2:]

    def stat(self, digest: str) -> Stored:
        return _stored(digest, self.place(digest))

    def listing(self) -> Iterator[Stored]:
        for start in (f"{number:02x}" for number in range(256)):
            folder = self.root / start
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
            for name in names:
                with suppress(StorageError):  # removed meanwhile, or not ours
                    yield self.stat(f"sha256:{start}{name}")

    def remove(self, digest: str) -> None:
        with _disk_errors("remove"):
            self.place(digest).unlink(missing_ok=True)

    def clear_unfinished(self, before: float) -> int:
        folder = self.root / _INCOMING
        removed, refused = 0, list[OSError]()
        for place in folder.iterdir() if folder.is_dir() else ():
            try:
                if place.stat().st_mtime < before:
                    place.unlink()
                    removed += 1
            except FileNotFoundError:
                pass  # its writer has ended
            except OSError as error:
                refused.append(error)
        if refused:
            log.warning("unfinished blobs not removed", number=len(refused), error=refused[0].strerror)
        return removed

    def owner(self) -> str | None:
        with _disk_errors("read"), suppress(FileNotFoundError):
            return (self.root / _OWNER).read_text(encoding="ascii").strip()
        return None

    def claim_for(self, store_id: str) -> str:
        with _disk_errors():
            temporary = self._temporary()
            try:
                file = _NewFile(temporary)
                try:
                    file.write(store_id.encode())
                    file.finish(lasting=True)
                finally:
                    file.give_up()
                with suppress(FileExistsError):
                    os.link(temporary, self.root / _OWNER)  # whole at once, and only the first time
                    _sync_folder(self.root)
            finally:
                temporary.unlink(missing_ok=True)
        return self.owner() or store_id

    # ------------------------------------------------------------ files

    def _opened(self, digest: str) -> BinaryIO:
        try:
            handle = os.open(self.place(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise missing(digest) from None
        except OSError as error:
            raise StorageUnavailable(f"cannot read blob {digest}: {error.strerror}") from error
        return os.fdopen(handle, "rb")

    def _temporary(self) -> Path:
        folder = self.root / _INCOMING
        _private(folder)
        return folder / secrets.token_hex(16)

    def _publish(self, temporary: Path, name: str) -> None:
        """Over a blob that is there: it has the same bytes, or is damaged; and now it is young, so that no collector takes it."""
        folder = self.root / name[:2]
        self._make(folder)
        os.replace(temporary, folder / name[2:])
        self._passing("blob.renamed")
        if self._lasting:
            _sync_folder(folder)

    def _make(self, folder: Path) -> None:
        """Lasting once a process, whoever made the folder: another process may not have got as far as its fsync."""
        _private(folder)
        if self._lasting and folder.name not in self._made:
            _sync_folder(self.root)
            self._made.add(folder.name)


class _NewFile:
    """A file being written, with a buffer of our own: Python's would be written once more by `close` after the disk has refused it."""

    def __init__(self, place: Path) -> None:
        self._handle: int | None = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._buffer = bytearray()

    def write(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= CHUNK:
            self._flush()

    def finish(self, lasting: bool) -> None:
        """Everything is on the disk, or this raises StorageError, and then for good: after a failed fsync the next one tells nothing."""
        self._flush()
        with _disk_errors():
            if lasting and self._handle is not None:
                os.fsync(self._handle)
            self._close()

    def give_up(self) -> None:
        """Without effect after `finish`."""
        with suppress(OSError):
            self._close()

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)  # its error is an error of writing, and the handle is gone all the same

    def _flush(self) -> None:
        rest, self._buffer = memoryview(bytes(self._buffer)), bytearray()
        with _disk_errors():
            while rest and self._handle is not None:
                rest = rest[os.write(self._handle, rest) :]


@contextmanager
def _disk_errors(what: str = "write") -> Iterator[None]:
    """Only around our own calls: an OSError of whoever feeds the writer (a lost client) is theirs."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(f"cannot {what} a blob: {error.strerror}") from error


def _stored(digest: str, place: Path) -> Stored:
    try:
        facts = place.stat(follow_symlinks=False)
    except FileNotFoundError:
        raise missing(digest) from None
    except OSError as error:
        raise StorageUnavailable(f"cannot read blob {digest}: {error.strerror}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise missing(digest)
    return Stored(digest, facts.st_size, facts.st_mtime)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _private(folder: Path) -> None:
    """The folder and the store's own, for this user alone; whoever made either before chose who may look."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True, mode=0o700)
