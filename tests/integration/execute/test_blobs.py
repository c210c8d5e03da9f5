"""Whole jobs, and where their bytes are."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from distill.catalog import artifacts
from distill.db import listen_dsn, unit_of_work
from distill.errors import StorageUnavailable
from distill.jobs import collecting
from distill.settings import BlobSettings
from distill.storage import BlobStore, FolderStore
from distill.storage.s3 import S3Store
from tests.integration.execute.house import House, knows, rows
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.scripted_lm import Answer, Ask, ScriptedLM


@pytest.fixture
def bucket(s3: S3Server, place: BlobSettings, tmp_path: Path) -> S3Store:
    return s3.store(place, tmp_path / "cache")


@pytest.fixture
def far_house(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM, bucket: S3Store) -> Iterator[House]:
    with House(tmp_path, teacher, student, bucket=bucket) as opened:
        yield opened


def all_rows() -> list[str]:
    with psycopg.connect(listen_dsn()) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'blobs'").fetchall()
        return [str(row) for (table,) in tables for row in connection.execute(f'SELECT t::text FROM "{table}" t'.encode()).fetchall()]


def digests_in_all_rows() -> set[str]:
    return {found for one in all_rows() for found in re.findall(r"sha256:[0-9a-f]{64}", one)}


def environments(program: str) -> list[dict[str, str]]:
    """Of the processes below this one that run a program."""
    found = []
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if program in each.cmdline():
                found.append(each.environ())
    return found


def held(store: BlobStore) -> set[str]:
    return {blob.digest for blob in store.listing()}


class TestCollector:
    def test_leaves_all_that_any_row_of_a_finished_job_names(self, house: House) -> None:
        """So a column that holds digests of blobs cannot be forgotten in the collector's list."""
        job = house.run(house.submit(rows(12), valset=rows(6)), seconds=110)
        assert job.status == "succeeded", job.error
        assert isinstance(house.store, FolderStore)
        orphan = house.store.put(b"of an attempt that failed")
        before = held(house.store)
        collecting.collect(house.store, 0, 0, threading.Event())
        assert before - held(house.store) == {orphan}
        assert before & digests_in_all_rows() == held(house.store)


class TestBucket:
    def test_a_whole_job_in_a_bucket(self, far_house: House, s3: S3Server, place: BlobSettings, tmp_path: Path) -> None:
        runners: list[dict[str, str]] = []

        def answer(ask: Ask) -> Answer:
            runners.extend(environments("stillhouse_programs.runner"))
            return knows(ask)

        far_house.teacher.answer = answer
        job = far_house.run(far_house.submit(rows(12), valset=rows(6)), seconds=110)
        assert job.status == "succeeded", job.error
        assert runners
        for seen in (*runners, *all_rows()):
            assert SECRET_KEY not in str(seen)
            assert ACCESS_KEY not in str(seen)
        with unit_of_work() as s:
            artifact = artifacts.of_job(s, job.id)
        assert artifact is not None
        elsewhere = s3.store(place, tmp_path / "another machine")
        for entry in artifact.files.values():
            assert elsewhere.size(entry["digest"]) == entry["size_bytes"]
        assert json.loads(elsewhere.read(artifact.files["manifest.json"]["digest"]))["predictors"]
        assert not (tmp_path / "blobs").exists()

    @pytest.mark.slow
    def test_a_bucket_that_does_not_answer_costs_an_attempt_and_no_job(
        self, far_house: House, bucket: S3Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused: list[str] = []
        real = bucket.put

        def once(source: object) -> str:
            if not refused:
                refused.append("put")
                raise StorageUnavailable("the bucket of the blob store does not answer (ConnectTimeoutError)")
            return real(source)  # type: ignore[arg-type]

        job_id = far_house.submit(rows(12))
        monkeypatch.setattr(bucket, "put", once)
        job = far_house.run(job_id, seconds=110)
        assert (job.status, refused) == ("succeeded", ["put"])
