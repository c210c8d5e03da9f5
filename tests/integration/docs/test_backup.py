"""The page about backups, run on a server with a finished job: what comes back from it is whole."""

import io
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from distill.catalog import artifacts, blobs, keys
from distill.db import unit_of_work
from stillhouse_programs.artifact import load_artifact
from tests.integration.docs.documents import Shell, run_document
from tests.integration.execute.conftest import house, student, teacher
from tests.integration.execute.house import House, rows
from tests.support import databases

PAGE = "docs/how-to/backup-and-restore.md"
__all__ = ["house", "student", "teacher"]


@pytest.fixture
def operator(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """At a shell beside the house's database and blobs."""
    monkeypatch.setenv("STILLHOUSE_HOME", str(house.folder))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    desk = tmp_path / "desk"
    desk.mkdir()
    with Shell(desk, os.environ) as shell:
        yield shell


def restored(database: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the restored server."""
    monkeypatch.setenv("DATABASE_URL", f"{database.rpartition('/')[0]}/restored")
    monkeypatch.setenv("STILLHOUSE_HOME", str(folder))
    databases.forget_settings()


@pytest.mark.slow
class TestBackup:
    def test_an_artifact_is_downloaded_from_the_restored_server_and_loads(
        self, database: str, house: House, operator: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = house.run(house.submit(rows(12), valset=rows(6)), seconds=300)
        assert job.status == "succeeded", job.error
        with unit_of_work() as s:
            blobs.check_store(s, house.store)
            artifact = artifacts.of_job(s, job.id)
            token = keys.create(s, house.project_id, "test", ["jobs:read"])[1]
        assert artifact is not None
        assert run_document(PAGE, operator) == 3
        shutil.rmtree(house.folder / "blobs")
        restored(database, tmp_path / "desk" / "restored", monkeypatch)
        with TestClient(create_app(), headers={"Authorization": f"Bearer {token}"}) as api:
            reply = api.get(f"/v1/artifacts/{artifact.id}/content")
        assert reply.status_code == 200, reply.text
        with tarfile.open(fileobj=io.BytesIO(reply.content)) as archive:
            archive.extractall(tmp_path / "artifact", filter="data")
        assert load_artifact(tmp_path / "artifact", "http://127.0.0.1:9").predictors()
