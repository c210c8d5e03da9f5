"""`stillhouse-server` on real servers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distill.catalog import keys
from distill.db import unit_of_work
from stack.keys import first_key

pytestmark = pytest.mark.usefixtures("database")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "stack.cli", *arguments], capture_output=True, text=True, check=False)


class TestCreateKey:
    def test_the_printed_key_works_for_its_project(self) -> None:
        done = run("create-key", "--project", "vision", "--label", "ci", "--scopes", "jobs:read,models:use")
        assert done.returncode == 0, done.stderr
        with unit_of_work() as session:
            caller = keys.verify(session, done.stdout.strip())
        assert caller.project_name == "vision"
        assert caller.scopes == {"jobs:read", "models:use"}

    def test_an_unknown_scope_is_named(self) -> None:
        done = run("create-key", "--scopes", "jobs:raed")
        assert done.returncode == 1
        assert "jobs:raed" in done.stderr


class TestFirstKey:
    def test_is_made_once_and_kept_while_it_works(self, tmp_path: Path) -> None:
        file = tmp_path / "credentials.json"
        token, project = first_key(file)
        assert project == "default"
        file.write_text(json.dumps({"api_key": token}))
        assert first_key(file) == (token, "default")

    def test_a_key_of_another_database_is_replaced(self, tmp_path: Path) -> None:
        file = tmp_path / "credentials.json"
        file.write_text(json.dumps({"api_key": "sh_other_database"}))
        token, _ = first_key(file)
        with unit_of_work() as session:
            assert keys.verify(session, token).may("admin")


class TestDoctor:
    def test_a_well_server_passes(self) -> None:
        done = run("doctor")
        assert done.returncode == 0, done.stdout
        for name in ("PostgreSQL", "Migrations", "Redis", "Blob store", "Disk"):
            assert f"✓ {name}" in done.stdout
        assert "noeviction" in done.stdout

    def test_a_lost_server_is_a_finding_not_a_crash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
        done = run("doctor")
        assert done.returncode == 1
        assert "✗ Redis" in done.stdout
        assert "✓ PostgreSQL" in done.stdout
        assert "Traceback" not in done.stderr

    def test_a_connection_without_its_key_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "stillhouse.toml").write_text(
            '[connections.teacher]\nbase_url = "http://127.0.0.1:1/v1"\napi_key_env = "TEACHER_KEY"\n'
        )
        done = run("doctor")
        assert done.returncode == 1
        assert "its key is not set: TEACHER_KEY" in done.stdout


class TestMigrate:
    def test_says_where_the_database_is(self) -> None:
        done = run("migrate")
        assert done.returncode == 0, done.stderr
        assert "The database is at revision" in done.stdout
