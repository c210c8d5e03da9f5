"""A blob is whole or absent, and its name is its content."""

import io
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from distill.errors import StorageError
from distill.storage import FolderStore, Source
from tests.integration.core.world import at_once

DATA = b"weights" * 1000
DIGEST = "sha256:" + sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "blobs")


def leftovers(store: FolderStore) -> list[Path]:
    return list((store.root / "incoming").iterdir())


class TestPut:
    @pytest.mark.parametrize("form", ["bytes", "path", "stream", "chunks"])
    def test_every_form_gives_the_same_blob(self, store: FolderStore, tmp_path: Path, form: str) -> None:
        (tmp_path / "file").write_bytes(DATA)
        sources: dict[str, Source] = {
            "bytes": DATA,
            "path": tmp_path / "file",
            "stream": io.BytesIO(DATA),
            "chunks": iter([DATA[:10], DATA[10:]]),
        }
        assert store.put(sources[form]) == DIGEST
        assert store.read(DIGEST) == DATA
        assert store.size(DIGEST) == len(DATA)
        assert leftovers(store) == []

    def test_same_bytes_twice_are_one_file(self, store: FolderStore) -> None:
        assert {store.put(DATA) for _ in range(2)} == {DIGEST}
        assert sum(path.is_file() for path in store.root.rglob("*")) == 1

    def test_racing_writers_of_the_same_bytes_both_succeed(self, store: FolderStore) -> None:
        assert set(at_once(4, lambda _: store.put(DATA))) == {DIGEST}
        assert store.read(DIGEST) == DATA

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

    def test_broken_stream_leaves_nothing(self, store: FolderStore) -> None:
        def broken() -> Iterator[bytes]:
            yield DATA
            raise ConnectionError("the client is gone")

        with pytest.raises(ConnectionError):
            store.put(broken())
        assert leftovers(store) == []
        assert not store.exists(DIGEST)

    def test_full_disk_is_a_storage_error(self, store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", refuse)
        with pytest.raises(StorageError, match="No space left"):
            store.put(DATA)
        assert leftovers(store) == []
        assert not store.exists(DIGEST)


class TestRead:
    def test_flipped_byte_is_noticed(self, store: FolderStore) -> None:
        store.put(DATA)
        store.path(DIGEST).write_bytes(b"X" + DATA[1:])
        for read in (store.read, store.open, store.verify):
            with pytest.raises(StorageError) as refusal:
                read(DIGEST)
            assert refusal.value.code == "blob_damaged"

    @pytest.mark.parametrize("digest", [DIGEST, "sha256:../../etc/passwd", "md5:00", ""])
    def test_what_is_not_there_is_missing(self, store: FolderStore, digest: str) -> None:
        with pytest.raises(StorageError) as refusal:
            store.path(digest)
        assert refusal.value.code == "blob_missing"


class TestStoreId:
    def test_store_belongs_to_the_first_who_claims_it(self, store: FolderStore) -> None:
        store.claim_for("store-a")
        store.claim_for("store-a")
        with pytest.raises(StorageError, match="belongs to database store-a, not store-b"):
            store.claim_for("store-b")
