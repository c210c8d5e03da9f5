"""`stillhouse-server` on real servers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from distill.catalog import blobs, keys, projects, webhooks
from distill.db import unit_of_work
from distill.settings import get_settings
from distill.storage import open_store
from stack.keys import first_key
from tests.support import databases

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
        assert done.stderr == "The project vision was made: there was none of this name.\n"

    def test_an_unknown_scope_is_named(self) -> None:
        done = run("create-key", "--scopes", "jobs:raed")
        assert done.returncode == 1
        assert "jobs:raed" in done.stderr

    def test_a_file_of_labels_gives_a_key_for_each(self, tmp_path: Path) -> None:
        with unit_of_work() as session:
            projects.ensure(session, "vision")
        people = tmp_path / "people.txt"
        people.write_text("# the team\nana\n\n  bo  \n")
        done = run("create-key", "--project", "vision", "--scopes", "models:use", "--labels", str(people))
        assert (done.returncode, done.stderr) == (0, "")
        made = dict(line.split("\t") for line in done.stdout.splitlines())
        assert list(made) == ["ana", "bo"]
        with unit_of_work() as session:
            assert [keys.verify(session, token).project_name for token in made.values()] == ["vision", "vision"]

    def test_a_label_that_stands_twice_makes_no_key(self, tmp_path: Path) -> None:
        people = tmp_path / "people.txt"
        people.write_text("ana\nbo\nana\n")
        done = run("create-key", "--project", "twice", "--labels", str(people))
        assert (done.returncode, done.stdout) == (1, "")
        assert "line 3: ana stands in line 1 already" in done.stderr
        both = run("create-key", "--label", "ana", "--labels", str(people))
        assert (both.returncode, "do not go together" in both.stderr) == (1, True)


class TestRotateKey:
    def test_says_how_many_were_sealed_anew_and_which_could_not_be_opened(self) -> None:
        with unit_of_work() as session:
            project = projects.ensure(session, "support").id
            made = [webhooks.add(session, project, "https://example.com/hook", ["alias.moved"], None)[0].id for _ in range(2)]
        done = run("rotate-key")
        assert (done.returncode, done.stdout) == (0, "2 of 2 secrets were sealed anew.\n"), done.stderr
        with unit_of_work() as session:
            session.execute(text("UPDATE webhook_endpoints SET sealed_secret = 'of another server' WHERE id = :id"), {"id": made[0]})
        done = run("rotate-key")
        assert (done.returncode, done.stdout) == (1, "1 of 2 secrets were sealed anew.\n")
        assert made[0] in done.stderr
        assert made[1] not in done.stderr


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
        for name in ("Clock", "Migrations", "Redis", "Blob store", "Disk", "Runtime default", "Sandbox", "Device"):
            assert f"✓ {name}" in done.stdout
        assert "noeviction" in done.stdout
        assert re.search(r"! Workers +0 for light, 0 for rollouts, 0 for train", done.stdout)
        assert "fsync off" in done.stdout  # of the tests' server, and on purpose

    def test_all_that_must_be_mended_is_named_with_what_to_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A lost server is a finding, not a crash."""
        (tmp_path / "stillhouse.toml").write_text(
            '[connections.teacher]\nbase_url = "http://127.0.0.1:1/v1"\napi_key_env = "TEACHER_KEY"\n'
        )
        monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
        with unit_of_work() as session:
            blobs.check_store(session, open_store(get_settings()))
            session.execute(text("UPDATE server_meta SET value = 'store_other' WHERE key = 'store_id'"))
        with databases.at_revision("0001"):
            older = run("doctor").stdout
        done = run("doctor")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert re.search(r"✗ Migrations .*\n *→ .*run `stillhouse-server migrate`", older), older
        assert "Blob store" not in older  # its tables may be other ones
        for name, advice in {
            "Redis": "start Redis, or mend REDIS_URL",
            "Blob store": "set [blobs] in stillhouse.toml, or DATABASE_URL",
            "Connection teacher": "set this variable",
        }.items():
            assert re.search(rf"✗ {name} .*\n *→ .*{re.escape(advice)}", done.stdout), done.stdout
        assert "its key is not set: TEACHER_KEY" in done.stdout

    @pytest.mark.slow
    def test_without_a_database_the_rest_is_looked_at(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://stillhouse@127.0.0.1:1/postgres")
        done = run("doctor")
        assert done.returncode == 1
        assert re.search(r"✗ PostgreSQL .*\n *→ start PostgreSQL, or mend DATABASE_URL", done.stdout)
        assert (done.stdout.count("start PostgreSQL"), "psycopg" in done.stdout) == (1, False)
        assert "✓ Redis" in done.stdout


class TestMigrate:
    def test_says_where_the_database_is(self) -> None:
        done = run("migrate")
        assert done.returncode == 0, done.stderr
        assert "The database is at revision" in done.stdout
