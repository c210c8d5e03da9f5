"""Where the embedded database lies: in its home, so that a copy of the home is whole, and an absent database is never replaced."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from stack import postgres
from stack.crew import Crew
from stack.errors import DatabaseGone
from stack.home import open_home
from stack.servers import Servers, plan_servers

BROKER = "redis://127.0.0.1:1"  # given, so that only PostgreSQL is started


@contextmanager
def database(home: Path) -> Iterator[tuple[Servers, psycopg.Connection]]:
    servers = plan_servers(open_home(home), {"REDIS_URL": BROKER}, fast=True)
    crew = Crew(home, dict(os.environ), lambda _name, _line: None)
    try:
        crew.wait_ready([crew.start(part) for part in servers.parts])
        url = make_url(servers.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            yield servers, connection
    finally:
        crew.stop()


def remember(home: Path, word: str) -> None:
    with database(home) as (_, connection):
        connection.execute("CREATE TABLE kept AS SELECT %s AS word", [word])


def remembered(home: Path) -> object:
    with database(home) as (_, connection):
        return connection.execute("SELECT word FROM kept").fetchone()


@pytest.fixture
def closed_home(tmp_path: Path) -> Path:
    """A home that no other user can enter: pytest's folders are closed to others."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    return folder / "home"


def test_database_of_closed_home_survives_copy_of_home(closed_home: Path, tmp_path: Path) -> None:
    remember(closed_home, "copied")
    copy = tmp_path / "copy"
    shutil.copytree(closed_home, copy, symlinks=True)
    for folder, _, files in os.walk(closed_home / "pg"):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            stat = os.stat(path)
            os.chown(str(copy) + path.removeprefix(str(closed_home)), stat.st_uid, stat.st_gid)  # as `cp -a` does
    shutil.rmtree(closed_home)
    assert remembered(copy) == ("copied",)


def test_missing_database_is_reported_with_its_place_and_not_replaced(closed_home: Path) -> None:
    remember(closed_home, "lost")
    shutil.rmtree(closed_home / "pg")
    for _ in range(2):
        with pytest.raises(DatabaseGone, match=rf"{closed_home}/pg.*stillhouse-server restore"):
            plan_servers(closed_home, {"REDIS_URL": BROKER}, fast=True)
    assert not (closed_home / "pg").exists()


def test_interrupted_first_start_makes_the_database_anew(closed_home: Path) -> None:
    (open_home(closed_home) / "pg").mkdir()
    (closed_home / "pg" / "half").touch()
    remember(closed_home, "made")
    assert remembered(closed_home) == ("made",)


def test_database_outside_the_home_is_moved_into_it(closed_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(closed_home, "moved")
    monkeypatch.setattr(postgres, "_EARLIER_PLACE", tmp_path)
    earlier = postgres.earlier_folder(closed_home)
    earlier.mkdir()
    (closed_home / "pg").rename(earlier / "pg")
    assert remembered(closed_home) == ("moved",)
    assert (closed_home / "pg" / "PG_VERSION").exists()
    assert not earlier.exists()
