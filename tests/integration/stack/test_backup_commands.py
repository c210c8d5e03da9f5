"""`stillhouse-server backup` and `restore`: a whole home, and back."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from distill.settings import get_settings
from distill.storage import FolderStore
from stack.backup import back_up
from tests.integration.stack.test_database_in_home import database

PYTHON = [sys.executable, "-m", "stack.cli"]


def run(*arguments: str | Path) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    done = subprocess.run([*PYTHON, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, (done.stdout + done.stderr).strip()


def filled(home: Path) -> str:
    """A home with a table, a blob and keys; returns the blob's digest."""
    with database(home) as (_, connection):
        connection.execute("CREATE TABLE kept AS SELECT 'word' AS word")
    store = FolderStore(home / "blobs")
    store.claim_for("store-1")
    (home / "sealing.key").write_text("secret\n")
    (home / "credentials.json").write_text('{"api_key": "sh_key"}')
    return store.put(b"weights")


def test_restored_home_has_database_blobs_and_keys(tmp_path: Path) -> None:
    digest = filled(tmp_path / "home")
    code, said = run("backup", tmp_path / "backup", "--home", tmp_path / "home")
    assert code == 0, said
    shutil.rmtree(tmp_path / "home")
    code, said = run("restore", tmp_path / "backup", "--home", tmp_path / "new")
    assert code == 0, said
    with database(tmp_path / "new") as (servers, connection):
        assert connection.execute("SELECT word FROM kept").fetchone() == ("word",)
        assert str(make_url(servers.database_url).password) not in (tmp_path / "backup" / "manifest.json").read_text()
    assert FolderStore(tmp_path / "new" / "blobs").read(digest) == b"weights"
    assert FolderStore(tmp_path / "new" / "blobs").owner() == "store-1"
    for name, content in (("sealing.key", "secret\n"), ("credentials.json", '{"api_key": "sh_key"}')):
        assert (tmp_path / "new" / name).read_text() == content
        assert (tmp_path / "backup" / name).stat().st_mode & 0o777 == 0o600


def test_second_backup_copies_new_blobs_alone(tmp_path: Path) -> None:
    filled(tmp_path / "home")
    assert "Blobs: 1 copied, 0.0 MB; 0 were there." in run("backup", tmp_path / "backup", "--home", tmp_path / "home")[1]
    FolderStore(tmp_path / "home" / "blobs").put(b"more")
    assert "Blobs: 1 copied, 0.0 MB; 1 were there." in run("backup", tmp_path / "backup", "--home", tmp_path / "home")[1]


def test_restore_into_a_home_with_a_database_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "home")
    assert run("backup", tmp_path / "backup", "--home", tmp_path / "home")[0] == 0
    code, said = run("restore", tmp_path / "backup", "--home", tmp_path / "home")
    assert (code, said.splitlines()) == (
        1,
        [
            f"stillhouse-server: {tmp_path / 'home'} is the home of a server (it has sealing.key and credentials.json): "
            "name an empty folder with --home"
        ],
    )


def test_damaged_or_unfinished_backup_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    filled(tmp_path / "home")
    assert run("backup", tmp_path / "backup", "--home", tmp_path / "home")[0] == 0
    (dump,) = (tmp_path / "backup").glob("database-*.dump")
    with dump.open("ab") as file:
        file.write(b"x")
    code, said = run("restore", tmp_path / "backup", "--home", tmp_path / "new")
    assert (code, "is damaged" in said, (tmp_path / "new" / "pg").exists()) == (1, True, False)
    (tmp_path / "backup" / "manifest.json").unlink()
    code, said = run("restore", tmp_path / "backup", "--home", tmp_path / "new")
    assert (code, "holds no finished backup" in said) == (1, True)


def test_backup_of_a_folder_without_a_database_is_refused(tmp_path: Path) -> None:
    code, said = run("backup", tmp_path / "backup", "--home", tmp_path / "nothing")
    assert (code, "has no database: name its home with --home" in said) == (1, True)


def test_failed_backup_leaves_the_one_before_it_whole(tmp_path: Path) -> None:
    filled(tmp_path / "home")
    assert run("backup", tmp_path / "backup", "--home", tmp_path / "home")[0] == 0
    assert run("backup", tmp_path / "backup", "--home", tmp_path / "nothing")[0] == 1
    store = FolderStore(tmp_path / "home" / "blobs")
    store.place(store.put(b"damaged")).write_bytes(b"other bytes")
    code, said = run("backup", tmp_path / "backup", "--home", tmp_path / "home")
    assert (code, "lacks 1 blobs" in said) == (1, True)
    assert len(list((tmp_path / "backup").glob("database-*.dump"))) == 1
    code, said = run("restore", tmp_path / "backup", "--home", tmp_path / "new")
    assert code == 0, said


def test_a_backup_changes_no_variable_of_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "home")
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "home"))
    get_settings.cache_clear()
    before, during = dict(os.environ), []
    back_up(get_settings(), tmp_path / "backup", lambda _line: during.append(dict(os.environ)))
    assert len(during) == 2
    assert [*during, dict(os.environ)] == [before] * 3
