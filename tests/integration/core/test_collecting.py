"""What the collector takes away, and what it never does, on a real database and both kinds of store."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from sqlalchemy import delete, select, text, update
from structlog.testing import capture_logs
from urllib3 import HTTPResponse

from distill.catalog import blobs
from distill.catalog.models import Blob, Dataset
from distill.db import unit_of_work
from distill.errors import StorageError, StorageUnavailable
from distill.jobs import checkpoints, collecting, erasing
from distill.jobs.collecting import Collected
from distill.settings import TimerSettings
from distill.storage import BlobStore, FolderStore, Stored
from tests.integration.core.every_status import open_train
from tests.integration.core.world import World, at_once, taken
from tests.support.databases import at_revision
from tests.support.s3 import S3Server
from workers.collector import Collector

DAY = 86_400.0
_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


@pytest.fixture(params=["folder", "bucket"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "folder":
        return FolderStore(tmp_path / "stillhouse-home" / "blobs")
    server: S3Server = request.getfixturevalue("s3")
    return server.store(server.settings(), tmp_path / "cache")


@pytest.fixture
def world(database: str, either: BlobStore) -> World:
    return World(either).build()


def collect(store: BlobStore, after: float = 0.0, period: float = 0.0) -> Collected | None:
    return collecting.collect(store, after, period, threading.Event())


def point_at(world: World, content: bytes) -> str:
    """Put a blob and make a row that points at it, as every caller does: in the transaction that registers it."""
    digest = world.store.put(content)
    with unit_of_work() as s:
        blobs.register(s, world.store, digest)
        s.add(Dataset(id=mine(), project_id=world.project_id, digest=digest, row_count=0, size_bytes=0, offsets=[], fields=[]))
    return digest


def mine() -> str:
    """A row of this thread's."""
    return f"ds-{threading.get_ident()}"


def let_go(digest: str) -> None:
    with unit_of_work() as s:
        s.execute(delete(Dataset).where(Dataset.digest == digest))


def marked(digest: str) -> bool:
    with unit_of_work() as s:
        return s.scalar(select(Blob.unused_since).where(Blob.digest == digest)) is not None


def unused_for(digest: str, seconds: float) -> None:
    with unit_of_work() as s:
        s.execute(update(Blob).where(Blob.digest == digest).values(unused_since=text(f"clock_timestamp() - interval '{seconds} seconds'")))


class TestWhatGoes:
    def test_a_blob_that_is_not_used_for_a_day(self, world: World) -> None:
        digest = point_at(world, b"a log")
        let_go(digest)
        collect(world.store, after=DAY)
        assert marked(digest)
        assert world.store.exists(digest), "it is unused since this moment"
        unused_for(digest, DAY + 60)
        collect(world.store, after=DAY)
        assert world.store.exists(digest), "it was put a moment ago: somebody may be about to point at it"
        unused_for(digest, 60)
        assert collect(world.store, after=0) == Collected(1, 5, 0)
        assert not world.store.exists(digest)

    def test_a_blob_that_was_put_and_never_registered(self, world: World) -> None:
        digest = world.store.put(b"of a worker that was killed")
        collect(world.store, after=DAY)
        assert world.store.exists(digest)
        assert collect(world.store) == Collected(1, 27, 0)
        assert not world.store.exists(digest)

    def test_what_rows_point_at_stays(self, world: World) -> None:
        digest = point_at(world, b"a dataset")
        assert collect(world.store) == Collected(0, 0, 0)
        assert world.store.read(digest) == b"a dataset"
        assert not marked(digest)

    def test_what_is_young_by_the_databases_clock_stays(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        unregistered = world.store.put(b"of somebody who is about to register it")
        put_again = point_at(world, b"a file")
        let_go(put_again)
        collect(world.store, after=DAY)
        unused_for(put_again, DAY + 60)
        wall = time.time
        monkeypatch.setattr(time, "time", lambda: wall() + 2 * DAY)
        with world.store.writer() as out:
            assert collect(world.store, after=DAY) == Collected(0, 0, 0)
            out.write(b"under way")
        assert [world.store.exists(digest) for digest in (unregistered, put_again, out.digest)] == [True, True, True]

    def test_pointed_at_again_its_time_begins_anew(self, world: World) -> None:
        digest = point_at(world, b"a file")
        let_go(digest)
        collect(world.store, after=DAY)
        unused_for(digest, DAY + 60)
        point_at(world, b"a file")
        let_go(digest)
        with unit_of_work() as s:
            assert blobs.held(s)[2:] == (0, 0), "no longer marked"

    def test_a_blob_that_is_lost_already_is_forgotten(self, world: World) -> None:
        digest = point_at(world, b"a log")
        with unit_of_work() as s:
            blobs.check_store(s, world.store)
        let_go(digest)
        world.store.remove(digest)
        assert collect(world.store) == Collected(1, 0, 0)
        with unit_of_work() as s:
            assert s.get(Blob, digest) is None
        point_at(world, b"a log")
        assert world.store.exists(digest)

    def test_the_files_of_older_checkpoints(self, world: World) -> None:
        open_train(world, "a")
        held = taken("train")
        digests = [world.store.put(f"weights {step}".encode()) for step in (1, 2, 3)]
        for step, digest in enumerate(digests, 1):
            with unit_of_work() as s:
                checkpoints.record(s, held, world.store, step, {"weights": {"digest": digest, "size_bytes": 9}})
        collect(world.store)
        assert [world.store.exists(digest) for digest in digests] == [False, True, True]

    def test_the_doctor_is_told_how_much_is_held(self, world: World) -> None:
        digest = point_at(world, b"12345")
        with unit_of_work() as s:
            before = blobs.held(s)
        let_go(digest)
        collect(world.store, after=DAY)
        with unit_of_work() as s:
            assert blobs.held(s) == (*before[:2], 1, 5)


class TestConcurrentPublish:
    """Either the publisher finds the blob, or it is told that it is gone and puts it again. Never a pointer at nothing."""

    def test_a_blob_that_is_being_registered_is_passed_over(self, world: World) -> None:
        digest = point_at(world, b"a file")
        let_go(digest)
        with unit_of_work() as s:
            blobs.register(s, world.store, digest)
            assert collect(world.store) == Collected(0, 0, 0)
        assert world.store.exists(digest)

    def test_whoever_registers_during_a_removal_waits_and_is_told(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        digest = point_at(world, b"a file")
        let_go(digest)
        removing, go_on = threading.Event(), threading.Event()
        real = world.store.remove

        def slow(which: str) -> None:
            removing.set()
            assert go_on.wait(30)
            real(which)

        def publish() -> str:
            try:
                return point_at(world, b"a file")
            except StorageError as error:
                return error.code

        def wait_then_go_on() -> None:
            wait_until(_somebody_waits)
            go_on.set()

        def part(number: int) -> object:
            if number == 0:
                return collect(world.store)
            assert removing.wait(30)
            if number == 1:
                return publish()
            wait_then_go_on()
            return None

        monkeypatch.setattr(world.store, "remove", slow)
        assert at_once(3, part) == [Collected(1, 6, 0), "blob_missing", None]
        monkeypatch.undo()
        assert world.store.read(point_at(world, b"a file")) == b"a file"

    def test_many_publish_while_many_collect(self, world: World) -> None:
        """With no time to spare at all: what is unused at this moment may go at this moment."""
        over = threading.Event()
        published: list[str] = []

        def publisher(number: int) -> None:
            for _ in range(8):
                try:
                    digest = point_at(world, b"the same bytes")
                except StorageError:
                    continue  # it was told so, and would put it again
                assert world.store.read(digest) == b"the same bytes", "a row points at it"
                published.append(digest)
                with unit_of_work() as s:
                    s.execute(delete(Dataset).where(Dataset.id == mine()))

        def part(number: int) -> None:
            if number < 3:
                publisher(number)
                return
            while not over.is_set():
                collect(world.store)

        collectors = [threading.Thread(target=part, args=(3,)) for _ in range(2)]
        for thread in collectors:
            thread.start()
        try:
            at_once(3, part)
        finally:
            over.set()
            for thread in collectors:
                thread.join()
        assert published


class TestTurns:
    def test_one_collects_at_a_time_and_once_a_period(self, world: World) -> None:
        assert [each is not None for each in at_once(4, lambda _: collect(world.store, period=3600))].count(True) == 1
        with unit_of_work() as s:
            s.execute(text("UPDATE server_meta SET value = (clock_timestamp() - interval '2 hours')::text WHERE key = 'collected_at'"))
        assert collect(world.store, period=3600) is not None

    def test_a_collector_takes_nothing_from_another_databases_store(self, world: World, tmp_path: Path) -> None:
        foreign = FolderStore(tmp_path / "foreign")
        foreign.claim_for("store-of-somebody-else")
        digest = foreign.put(b"theirs")
        with pytest.raises(StorageError, match="belongs to the database store-of-somebody-else"):
            collect(foreign)
        assert foreign.exists(digest)

    def test_a_thread_beside_the_dispatcher_collects_again_and_again(self, world: World) -> None:
        collector = Collector(world.store, TimerSettings(collect_after_seconds=0.001, collect_period_seconds=0.01))
        digest = world.store.put(b"of a worker that was killed")
        collector.start()
        try:
            wait_until(lambda: not world.store.exists(digest))
        finally:
            collector.stop()

    def test_a_store_that_does_not_answer_is_waited_for(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse() -> Iterator[Stored]:
            raise StorageUnavailable("the bucket does not answer")

        monkeypatch.setattr(world.store, "listing", refuse)
        Collector(world.store, TimerSettings(collect_period_seconds=0.01)).round()

    def test_an_erased_blob_that_cannot_be_removed_ends_no_round(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        erased, unused = world.store.put(b"of a deleted job"), world.store.put(b"of a worker that was killed")
        with unit_of_work() as s:
            blobs.register(s, world.store, erased)
            s.execute(update(Blob).where(Blob.digest == erased).values(unused_since=text("'epoch'")))
        remove, refused = world.store.remove, list[str]()

        def refuse_once(digest: str) -> None:
            if digest == erased and not refused:
                refused.append(digest)
                raise StorageUnavailable("the bucket does not answer")
            remove(digest)

        monkeypatch.setattr(world.store, "remove", refuse_once)
        Collector(world.store, TimerSettings(collect_after_seconds=0.001, collect_period_seconds=0.01)).round()
        assert refused == [erased]
        assert not world.store.exists(unused)

    def test_a_blob_that_the_store_refuses_to_remove_holds_up_no_other(self, world: World, request: pytest.FixtureRequest) -> None:
        refused, erased, unused, last = sorted(world.store.put(content) for content in (b"a", b"b", b"c", b"d"))
        with unit_of_work() as s:
            blobs.check_store(s, world.store)
            for digest in (refused, erased):
                blobs.register(s, world.store, digest)
            s.execute(update(Blob).where(Blob.digest.in_([refused, erased])).values(unused_since=text("'epoch'")))
        with refusing(world.store, refused, request), capture_logs() as logs:
            erasing.carry_out(world.store, threading.Event())
            assert not world.store.exists(erased)
            assert collect(world.store) == Collected(2, 2, 0)
            assert [world.store.exists(digest) for digest in (unused, last)] == [False, False]
        lines = [(line["log_level"], line["number"], line["digest"]) for line in logs if line["event"] == "blobs not removed"]
        assert lines == [("warning", 1, refused)] * 2
        collect(world.store)
        with unit_of_work() as s:
            assert s.get(Blob, refused) is None, "it is tried again"

    def test_nothing_is_taken_from_a_newer_version_whose_columns_are_not_known_here(self, world: World) -> None:
        """A dispatcher goes on when a newer version has migrated meanwhile, and a new column may point at a blob."""
        digest = world.store.put(b"of a column that is not known here")
        collector = Collector(world.store, TimerSettings(collect_after_seconds=0.001, collect_period_seconds=0.001))
        time.sleep(0.01)
        with at_revision("9999"):
            collector.round()
            assert world.store.exists(digest)
        collector.round()
        assert not world.store.exists(digest)


@contextmanager
def refusing(store: BlobStore, digest: str, request: pytest.FixtureRequest) -> Iterator[None]:
    """A bucket whose policy forbids to delete the blob, or a folder in its place, which not even root can unlink."""
    if isinstance(store, FolderStore):
        place = store.place(digest)
        place.unlink()
        place.mkdir()
        yield
        place.rmdir()
        return
    events = request.getfixturevalue("s3").client.meta.events

    def forbid(request: Any, **_: object) -> AWSResponse | None:
        if not request.url.endswith(digest.partition(":")[2][2:]):
            return None
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        return AWSResponse(request.url, 403, HTTPHeaders(), HTTPResponse(BytesIO(body), preload_content=False))

    events.register("before-send.s3.DeleteObject", forbid)
    yield
    events.unregister("before-send.s3.DeleteObject", forbid)


def _somebody_waits() -> bool:
    """In a transaction of its own: within one, the view stays as it was."""
    with unit_of_work() as s:
        return bool(s.scalar(_WAITING))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(3000):
        if holds():
            return
        deadline.wait(0.01)
    raise AssertionError("waited 30 s in vain")
