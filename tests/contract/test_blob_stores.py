"""What every blob store does, over each of them."""

import io
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from distill.errors import StorageError
from distill.storage import BlobStore, FolderStore, Source
from tests.integration.core.world import at_once
from tests.support.s3 import S3Server

DATA = b"weights" * 1000
DIGEST = "sha256:" + sha256(DATA).hexdigest()


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "folder":
        return FolderStore(tmp_path / "blobs")
    server: S3Server = request.getfixturevalue("s3")
    return server.store(server.settings(), tmp_path / "cache")


class TestPut:
    @pytest.mark.parametrize("form", ["bytes", "path", "stream", "chunks"])
    def test_every_form_gives_the_same_blob(self, store: BlobStore, tmp_path: Path, form: str) -> None:
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

    def test_nothing_is_a_blob_too(self, store: BlobStore) -> None:
        assert store.read(store.put(b"")) == b""

    def test_same_bytes_twice_are_one_blob(self, store: BlobStore) -> None:
        assert {store.put(DATA) for _ in range(2)} == {DIGEST}
        assert [found.digest for found in store.listing()] == [DIGEST]

    def test_racing_writers_of_the_same_bytes_all_succeed(self, store: BlobStore) -> None:
        assert set(at_once(4, lambda _: store.put(DATA))) == {DIGEST}
        assert store.read(DIGEST) == DATA

    def test_broken_stream_leaves_nothing(self, store: BlobStore) -> None:
        def broken() -> Iterator[bytes]:
            yield DATA
            raise ConnectionError("the client is gone")

        with pytest.raises(ConnectionError):
            store.put(broken())
        assert not store.exists(DIGEST)
        assert store.clear_unfinished(time.time()) == 0

    def test_two_blobs_written_side_by_side(self, store: BlobStore) -> None:
        with store.writer() as one, store.writer() as other:
            one.write(b"one")
            other.write(b"other")
        assert (store.read(one.digest), store.read(other.digest)) == (b"one", b"other")


class TestRead:
    def test_in_any_order(self, store: BlobStore) -> None:
        store.put(DATA)
        with store.open(DIGEST) as file:
            file.seek(7 * 500)
            assert file.read(7) == b"weights"
        assert store.path(DIGEST).read_bytes() == DATA

    @pytest.mark.parametrize("digest", [DIGEST, "sha256:../../etc/passwd", "md5:00", ""])
    def test_what_is_not_there_is_missing(self, store: BlobStore, digest: str) -> None:
        for read in (store.open, store.path, store.read, store.stat, store.size):
            with pytest.raises(StorageError) as refusal:
                read(digest)
            assert refusal.value.code == "blob_missing"
        assert not store.exists(digest)


class TestRemove:
    def test_whoever_has_it_open_reads_to_its_end(self, store: BlobStore) -> None:
        store.put(DATA)
        with store.open(DIGEST) as file:
            store.remove(DIGEST)
            assert file.read() == DATA
        assert not store.exists(DIGEST)

    def test_twice_is_no_error(self, store: BlobStore) -> None:
        store.put(DATA)
        store.remove(DIGEST)
        store.remove(DIGEST)
        assert list(store.listing()) == []

    def test_it_can_be_put_again(self, store: BlobStore) -> None:
        store.put(DATA)
        store.remove(DIGEST)
        store.put(DATA)
        assert store.read(DIGEST) == DATA


class TestListing:
    def test_names_sizes_and_ages(self, store: BlobStore) -> None:
        store.put(DATA)
        (found,) = store.listing()
        assert (found.digest, found.size_bytes) == (DIGEST, len(DATA))
        assert -5 < time.time() - found.put_at < 60

    def test_all_in_the_order_of_their_names(self, store: BlobStore) -> None:
        digests = [store.put(bytes([number])) for number in range(5)]
        store.claim_for("store-a")
        assert [found.digest for found in store.listing()] == sorted(digests)


class TestOwner:
    def test_store_belongs_to_the_first_who_claims_it(self, store: BlobStore) -> None:
        assert store.owner() is None
        assert store.claim_for("store-a") == "store-a"
        assert store.claim_for("store-b") == "store-a"
        assert store.owner() == "store-a"

    def test_one_of_many_at_once(self, store: BlobStore) -> None:
        claimed = at_once(4, lambda number: store.claim_for(f"store-{number}"))
        assert {store.owner()} == set(claimed)
