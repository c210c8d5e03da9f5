"""A bucket of blobs: what the server of the bucket, the network and the cache do to it.

What every store does is in tests/contract/test_blob_stores.py.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from distill.errors import StorageError, StorageUnavailable
from distill.settings import BlobSettings, Settings
from distill.storage import BlobStore, open_store
from distill.storage.s3 import S3Store
from tests.support.odd_server import odd_server
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.server_process import wait_until

DATA = b"weights" * 1000
DIGEST = "sha256:" + sha256(DATA).hexdigest()
YEAR = 365 * 86_400
PART = 8 << 20


@pytest.fixture
def store(s3: S3Server, place: BlobSettings, tmp_path: Path) -> S3Store:
    return s3.store(place, tmp_path / "cache")


@pytest.fixture
def elsewhere(s3: S3Server, place: BlobSettings, tmp_path: Path) -> S3Store:
    """The same bucket from another machine."""
    return s3.store(place, tmp_path / "another cache")


def key_of(digest: str) -> str:
    name = digest.removeprefix("sha256:")
    return f"production/{name[:2]}/{name[2:]}"


class TestMachines:
    def test_what_one_puts_another_reads(self, store: S3Store, elsewhere: S3Store) -> None:
        store.put(DATA)
        assert elsewhere.read(DIGEST) == DATA
        assert elsewhere.path(DIGEST).read_bytes() == DATA

    def test_names_are_those_of_a_folder(self, s3: S3Server, store: S3Store, place: BlobSettings) -> None:
        """So that a folder can be copied into a bucket and back."""
        store.put(DATA)
        store.claim_for("store-a")
        found = s3.client.list_objects_v2(Bucket=str(place.bucket))["Contents"]
        assert [each["Key"] for each in found] == sorted([key_of(DIGEST), "production/store-id"])

    def test_a_blob_of_many_parts_is_whole(self, store: S3Store, elsewhere: S3Store) -> None:
        digest = store.put(bytes([number]) * (PART // 2) for number in range(5))
        assert store.size(digest) == PART * 5 // 2
        with elsewhere.open(digest) as file:
            assert "sha256:" + sha256(file.read()).hexdigest() == digest


class TestMemory:
    SCRIPT = """
import os, resource, shutil, sys
from distill.settings import get_settings
from distill.storage import open_store
store = open_store(get_settings())
store.put(b"first")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
digest = store.put(os.urandom(1 << 20) for _ in range(100))
shutil.rmtree(get_settings().home / "blob-cache")
store.open(digest).close()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""

    @pytest.mark.slow
    def test_stays_flat_over_100_mb_up_and_down(self, place: BlobSettings) -> None:
        """In a process of its own, whose memory at its highest is what is measured."""
        told = {f"STILLHOUSE_BLOBS__{name.upper()}": str(value) for name, value in place.model_dump(exclude_none=True).items()}
        done = subprocess.run(
            [sys.executable, "-c", self.SCRIPT], env={**os.environ, **told}, capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 32_000, "KB: less than a third of the blob"


class TestDamage:
    @pytest.mark.parametrize("bytes_", [b"X" + DATA[1:], DATA[:-1], b""])
    def test_in_the_bucket_is_noticed(self, s3: S3Server, place: BlobSettings, elsewhere: S3Store, store: S3Store, bytes_: bytes) -> None:
        store.put(DATA)
        s3.client.put_object(Bucket=str(place.bucket), Key=key_of(DIGEST), Body=bytes_)
        for read in (elsewhere.read, elsewhere.open, elsewhere.path):
            with pytest.raises(StorageError) as refusal:
                read(DIGEST)
            assert refusal.value.code == "blob_damaged"
        store.put(DATA)
        assert elsewhere.read(DIGEST) == DATA, "put again, it is healed"

    def test_in_the_cache_is_fetched_again(self, store: S3Store) -> None:
        store.put(DATA)
        copy = store.path(DIGEST)
        copy.write_bytes(b"X" + DATA[1:])
        assert store.read(DIGEST) == DATA
        assert copy.read_bytes() == DATA


class TestCache:
    def old(self, store: S3Store, *blobs: bytes) -> list[Path]:
        """Blobs that were not used for two, three, … hours."""
        places = [store.path(store.put(blob)) for blob in blobs]
        for hours, place in enumerate(places, 2):
            os.utime(place, (time.time() - hours * 3600,) * 2)
        return places

    def test_gives_up_what_was_not_used_for_longest(self, s3: S3Server, place: BlobSettings, tmp_path: Path) -> None:
        store = s3.store(place, tmp_path / "cache", most_bytes=25_000)
        newer, older = self.old(store, b"a" * 10_000, b"b" * 10_000)
        newest = store.path(store.put(b"c" * 10_000))
        assert (newest.exists(), newer.exists(), older.exists()) == (True, True, False)
        assert store.read("sha256:" + sha256(b"b" * 10_000).hexdigest()) == b"b" * 10_000

    def test_keeps_what_was_used_lately_however_full_it_is(self, s3: S3Server, place: BlobSettings, tmp_path: Path) -> None:
        store = s3.store(place, tmp_path / "cache", most_bytes=0)
        used, unused = self.old(store, b"a" * 10, b"b" * 10)
        store.read("sha256:" + sha256(b"a" * 10).hexdigest())
        store.put(b"c")
        assert (used.exists(), unused.exists()) == (True, False)

    def test_a_blob_that_was_removed_is_not_served_from_it(self, store: S3Store) -> None:
        store.put(DATA)
        store.remove(DIGEST)
        with pytest.raises(StorageError, match="missing"):
            store.open(DIGEST)


class TestUnfinished:
    def test_parts_of_a_writer_that_was_killed_are_removed_once_they_are_old(
        self, s3: S3Server, place: BlobSettings, store: S3Store
    ) -> None:
        bucket = str(place.bucket)
        s3.client.create_multipart_upload(Bucket=bucket, Key=key_of(DIGEST))
        assert not store.exists(DIGEST)
        assert store.clear_unfinished(time.time() - 50 * YEAR) == 0, "moto says of every upload that it began in 2010"
        assert store.clear_unfinished(time.time() - 3600) == 1
        assert "Uploads" not in s3.client.list_multipart_uploads(Bucket=bucket)

    def test_one_that_the_bucket_refuses_to_remove_holds_up_no_other(self, s3: S3Server, place: BlobSettings, tmp_path: Path) -> None:
        bucket = str(place.bucket)
        for name in (DIGEST, "sha256:" + "f" * 64):
            s3.client.create_multipart_upload(Bucket=bucket, Key=key_of(name))
        with odd_server(lambda seen: "403 AccessDenied" if seen.count("DELETE") == 1 else s3.endpoint) as server:
            store = opened(s3.place(bucket=bucket, endpoint=server.endpoint), tmp_path)
            with capture_logs() as logs:
                assert store.clear_unfinished(time.time()) == 1
        assert len(s3.client.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1
        assert [(line["event"], line["number"]) for line in logs] == [("unfinished blobs not removed", 1)]

    def test_an_upload_that_fails_half_way_leaves_nothing(self, s3: S3Server, place: BlobSettings, tmp_path: Path) -> None:
        with odd_server(lambda seen: "broken" if seen[-1] == "PUT" and seen.count("PUT") > 1 else s3.endpoint) as server:
            settings = s3.place(bucket=place.bucket, endpoint=server.endpoint)
            store = opened(settings, tmp_path)
            with pytest.raises(StorageUnavailable):
                store.put(bytes([number]) * PART for number in range(3))
        assert list(s3.store(place, tmp_path / "c").listing()) == []
        assert "Contents" not in s3.client.list_objects_v2(Bucket=str(place.bucket))
        assert "Uploads" not in s3.client.list_multipart_uploads(Bucket=str(place.bucket))


def opened(settings: BlobSettings, home: Path) -> BlobStore:
    return open_store(Settings(home=home, blobs=settings))


def every_use(store: BlobStore) -> Iterator[Callable[[], object]]:
    yield lambda: store.put(DATA)
    yield lambda: store.open(DIGEST)
    yield lambda: store.stat(DIGEST)
    yield lambda: list(store.listing())
    yield lambda: store.remove(DIGEST)
    yield lambda: store.clear_unfinished(time.time())
    yield store.owner
    yield lambda: store.claim_for("store-a")


class TestFaults:
    """Each of them may pass, or is the operator's to mend: what needs the store is done again, and it says what to do."""

    def refused(self, store: BlobStore, words: str) -> None:
        for use in every_use(store):
            with pytest.raises(StorageUnavailable, match=words) as refusal:
                use()
            assert refusal.value.code == "storage"
            assert not [secret for secret in (ACCESS_KEY, SECRET_KEY, "http://") if secret in refusal.value.message]
            assert refusal.value.__cause__ is None, "a log would print it, with addresses"

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            ("403 AccessDenied", "refuses our keys"),
            ("403 SignatureDoesNotMatch", "refuses our keys"),
            ("404 NoSuchBucket", "does not exist"),
            ("503 SlowDown", "answers (SlowDown|503)"),
            ("broken", "does not answer"),
        ],
    )
    def test_answers(self, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, words: str) -> None:
        monkeypatch.setattr("time.sleep", lambda _: None)  # botocore's own, between its tries
        with odd_server(lambda _: answer) as server:
            self.refused(opened(s3.place(bucket="any", endpoint=server.endpoint), tmp_path), words)

    def test_refused_connections(self, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("time.sleep", lambda _: None)
        with odd_server(lambda _: "broken") as server:
            gone = server.endpoint
        self.refused(opened(s3.place(bucket="any", endpoint=gone), tmp_path), "does not answer")

    def test_silence_ends_after_its_time(self, s3: S3Server, tmp_path: Path) -> None:
        with odd_server(lambda _: "silent") as server:
            store = opened(s3.place(bucket="any", endpoint=server.endpoint, timeout_seconds=0.2), tmp_path)
            with pytest.raises(StorageUnavailable, match="does not answer"):
                store.put(DATA)
            wait_until(lambda: len(server.seen) >= 3, "it is not asked three times")
            assert server.seen == ["PUT"] * 3

    def test_no_keys(self, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in s3.environment:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("HOME", str(tmp_path))
        self.refused(opened(s3.settings(), tmp_path), "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")

    def test_a_bucket_that_is_not_there_is_not_a_blob_that_is_not_there(self, s3: S3Server, tmp_path: Path) -> None:
        store = opened(s3.place(bucket="nobody-made-it"), tmp_path)
        self.refused(store, "does not exist: make it")
        with pytest.raises(StorageUnavailable):
            store.exists(DIGEST)

    def test_a_reply_that_is_cut_is_asked_for_again(self, s3: S3Server, place: BlobSettings, store: S3Store, tmp_path: Path) -> None:
        store.put(DATA)
        with odd_server(lambda seen: f"half {s3.endpoint}" if seen.count("GET") == 1 else s3.endpoint) as server:
            other = opened(place.model_copy(update={"endpoint": server.endpoint}), tmp_path)
            assert other.read(DIGEST) == DATA
            assert server.seen.count("GET") == 2

    def test_replies_that_are_always_cut_leave_no_copy(self, s3: S3Server, place: BlobSettings, store: S3Store, tmp_path: Path) -> None:
        store.put(DATA)
        with odd_server(lambda seen: f"half {s3.endpoint}" if seen[-1] == "GET" else s3.endpoint) as server:
            other = opened(place.model_copy(update={"endpoint": server.endpoint}), tmp_path)
            with pytest.raises(StorageUnavailable):
                other.open(DIGEST)
        assert not [each for each in (tmp_path / "blob-cache").rglob("*") if each.is_file()]

    def test_an_error_that_passes_is_not_seen(self, s3: S3Server, place: BlobSettings, tmp_path: Path) -> None:
        with odd_server(lambda seen: "503 SlowDown" if len(seen) == 1 else s3.endpoint) as server:
            assert opened(place.model_copy(update={"endpoint": server.endpoint}), tmp_path).put(DATA) == DIGEST


class TestSettings:
    def test_a_folder_and_a_bucket_are_one_too_many(self, tmp_path: Path) -> None:
        with pytest.raises(ValidationError, match="root and bucket are two places"):
            BlobSettings(root=tmp_path, bucket="stillhouse")

    def test_a_key_has_no_place_in_the_address(self) -> None:
        with pytest.raises(ValidationError, match="keys are read from AWS_ACCESS_KEY_ID"):
            BlobSettings(bucket="stillhouse", endpoint="https://user:password@s3.example.com")
