"""A folder of blobs: what the disk does to it. What every store does is in tests/contract/test_blob_stores.py."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import pytest
from structlog.testing import capture_logs

from distill.errors import StorageError
from distill.storage import FolderStore, put_folder
from distill.storage import checked as checked_files

DATA = b"weights" * 1000
DIGEST = "sha256:" + sha256(DATA).hexdigest()

WRITE = """
import sys
from distill.execute.hooks import crash_point
from distill.storage import FolderStore
FolderStore(sys.argv[1], passing=crash_point).put(b"weights" * 1000)
"""
WRITE_ON_A_FULL_DISK = """
import sys
from distill.errors import StorageError
from distill.storage import FolderStore
store = FolderStore(sys.argv[1])
kept = store.put(b"small")
try:
    store.put(bytes([n % 251]) * 100_000 for n in range(100))
except StorageError as error:
    print(error.code, error.message)
print(store.read(kept) == b"small", len(list((store.root / "incoming").iterdir())), store.put(b"more") == store.put(b"more"))
"""
WRITE_AGAINST_LIMIT = """
import resource, signal, sys
from distill.errors import StorageError
from distill.storage import FolderStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 21, 1 << 21))
store = FolderStore(sys.argv[1])
try:
    store.put(bytes([n % 251]) * 100_000 for n in range(100))
except StorageError as error:
    print(error.code, error.message)
print(store.put(b"small") == store.put(b"small"))
"""


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "blobs")


def leftovers(store: FolderStore) -> list[Path]:
    return list((store.root / "incoming").iterdir())


def run(script: str, root: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, str(root)]
    return subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, check=False)


def refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class TestCrash:
    @pytest.mark.parametrize("point", ["blob.writing", "blob.synced", "blob.renamed", "blob.placed"])
    def test_leaves_the_blob_whole_or_absent(self, store: FolderStore, tmp_path: Path, point: str) -> None:
        died = run(WRITE, store.root, STILLHOUSE_CRASH_AT=point, STILLHOUSE_CRASH_MARKERS=str(tmp_path))
        assert died.returncode == -signal.SIGKILL
        assert store.exists(DIGEST) == (point in ("blob.renamed", "blob.placed"))
        if store.exists(DIGEST):
            assert store.read(DIGEST) == DATA
        assert store.put(DATA) == DIGEST
        assert store.read(DIGEST) == DATA

    def test_what_it_leaves_behind_is_removed_once_it_is_old(self, store: FolderStore, tmp_path: Path) -> None:
        run(WRITE, store.root, STILLHOUSE_CRASH_AT="blob.synced", STILLHOUSE_CRASH_MARKERS=str(tmp_path))
        (left,) = leftovers(store)
        assert store.clear_unfinished(time.time() - 3600) == 0
        os.utime(left, (time.time() - 7200,) * 2)
        assert store.clear_unfinished(time.time() - 3600) == 1
        assert leftovers(store) == []

    def test_what_cannot_be_removed_of_it_holds_up_nothing_else(self, store: FolderStore) -> None:
        incoming = store.root / "incoming"
        incoming.mkdir(parents=True)
        for name in "ace":
            (incoming / name).touch()
        for name in "bd":
            (incoming / name).mkdir()  # not even root can unlink a folder
        with capture_logs() as logs:
            assert store.clear_unfinished(time.time() + 3600) == 3
        assert sorted(place.name for place in incoming.iterdir()) == ["b", "d"]
        assert [(line["event"], line["number"]) for line in logs] == [("unfinished blobs not removed", 2)]


class TestFullDisk:
    def test_a_file_that_cannot_grow_leaves_nothing(self, store: FolderStore) -> None:
        """In a process of its own, whose files the kernel keeps below 2 MiB."""
        done = run(WRITE_AGAINST_LIMIT, store.root)
        assert done.stdout.splitlines() == [f"storage cannot write a blob: {os.strerror(errno.EFBIG)}", "True"], done.stderr
        assert leftovers(store) == []

    def test_a_disk_that_is_full_keeps_what_it_has_and_takes_what_fits(self, tmp_path: Path) -> None:
        """On a file system of 2 MiB, mounted in a namespace of the process's own."""
        mounted = f'mount -t tmpfs -o size=2m none "{tmp_path}" && exec "$0" -c "$1" "{tmp_path}/blobs"'
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, sys.executable, WRITE_ON_A_FULL_DISK]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines() == [f"storage cannot write a blob: {os.strerror(errno.ENOSPC)}", "True 0 True"], done.stderr

    @pytest.mark.parametrize("call", ["write", "fsync", "close"])
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    def test_is_a_storage_error_wherever_it_shows(
        self, store: FolderStore, monkeypatch: pytest.MonkeyPatch, call: str, number: int
    ) -> None:
        calls: list[int] = []
        real = getattr(os, call)

        def once(handle: int, *rest: object) -> object:
            if "/incoming/" not in os.readlink(f"/proc/self/fd/{handle}"):
                return real(handle, *rest)
            calls.append(handle)
            if call == "close":
                real(handle)
            raise refuse(number)

        with monkeypatch.context() as patched:
            patched.setattr(os, call, once)
            with pytest.raises(StorageError, match=os.strerror(number)) as refusal:
                store.put(DATA)
        assert refusal.value.code == "storage"
        assert len(calls) == 1, "after a failed fsync the next one tells nothing"
        assert leftovers(store) == []
        assert not store.exists(DIGEST)
        assert store.put(DATA) == DIGEST

    def test_a_new_folder_is_made_lasting_before_the_blob_is(self, store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Else a power cut may take the folder away, and the blob with it."""
        synced: list[str] = []
        real = os.fsync

        def fsync(handle: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{handle}"))
            real(handle)

        monkeypatch.setattr("os.fsync", fsync)
        store.put(DATA)
        assert synced[1:] == [str(store.root), str(store.path(DIGEST).parent)]


class TestDamage:
    @pytest.mark.parametrize("how", ["flipped", "cut", "flipped, with its old times"])
    def test_is_noticed_after_a_good_read(self, store: FolderStore, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
        monkeypatch.setattr(checked_files, "_YOUNG_SECONDS", -1.0)  # remember at once that the blob was good
        store.put(DATA)
        place = store.path(DIGEST)
        facts = place.stat()
        place.write_bytes(DATA[:-1] if how == "cut" else b"X" + DATA[1:])
        if "times" in how:
            os.utime(place, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        for read in (store.read, store.open, store.path):
            with pytest.raises(StorageError) as refusal:
                read(DIGEST)
            assert refusal.value.code == "blob_damaged"

    def test_a_good_file_is_read_once_for_many_uses(self, store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
        hashed: list[str] = []
        monkeypatch.setattr(checked_files, "_YOUNG_SECONDS", -1.0)
        real = checked_files._digest

        def digest(file: BinaryIO) -> str:
            hashed.append(str(file.name))
            return real(file)

        monkeypatch.setattr(checked_files, "_digest", digest)
        store.put(DATA)
        for _ in range(3):
            store.open(DIGEST).close()
        assert len(hashed) == 1

    def test_is_healed_by_putting_the_bytes_again(self, store: FolderStore) -> None:
        store.put(DATA)
        store.path(DIGEST).write_bytes(b"X" + DATA[1:])
        store.put(DATA)
        assert store.read(DIGEST) == DATA

    def test_a_link_in_place_of_a_blob_is_not_followed(self, store: FolderStore, tmp_path: Path) -> None:
        (tmp_path / "same").write_bytes(DATA)
        store.put(DATA)
        place = store.path(DIGEST)
        place.unlink()
        place.symlink_to(tmp_path / "same")
        with pytest.raises(StorageError):
            store.open(DIGEST)
        assert not store.exists(DIGEST)


class TestPlantedFiles:
    """A folder that others have written into holds what they like."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "out"
        (folder / "inner").mkdir(parents=True)
        (folder / "weights.bin").write_bytes(DATA)
        (folder / "inner" / "config.json").write_bytes(b"{}")
        (tmp_path / "secret").write_text("a canary")
        return folder

    def test_plain_files_are_stored_by_their_paths(self, store: FolderStore, folder: Path) -> None:
        files = put_folder(store, folder)
        assert list(files) == ["inner/config.json", "weights.bin"]
        assert files["weights.bin"] == {"digest": DIGEST, "size_bytes": len(DATA)}

    @pytest.mark.parametrize("kind", ["symlink", "folder link", "dangling", "hard link", "fifo", "socket"])
    def test_nothing_else_is(self, store: FolderStore, folder: Path, tmp_path: Path, kind: str) -> None:
        place, secret = folder / "inner" / "odd", tmp_path / "secret"
        if kind == "hard link":
            place.hardlink_to(secret)
        elif kind == "fifo":
            os.mkfifo(place)
        elif kind == "socket":
            os.mknod(place, stat.S_IFSOCK | 0o600)
        else:
            place.symlink_to({"symlink": secret, "folder link": tmp_path, "dangling": tmp_path / "nothing"}[kind])
        with pytest.raises(StorageError, match="odd is not a plain file") as refusal:
            put_folder(store, folder)
        assert refusal.value.code == "not_a_file"
        assert str(tmp_path) not in refusal.value.message
        assert not store.exists("sha256:" + sha256(b"a canary").hexdigest())

    def test_a_link_to_the_folder_is_not_followed(self, store: FolderStore, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(folder)
        with pytest.raises(StorageError, match="not a plain file"):
            put_folder(store, tmp_path / "link")

    def test_a_single_path_is_held_to_the_same(self, store: FolderStore, folder: Path, tmp_path: Path) -> None:
        (folder / "log.txt").symlink_to(tmp_path / "secret")
        with pytest.raises(StorageError, match=r"log\.txt is not a plain file"):
            store.put(folder / "log.txt")
