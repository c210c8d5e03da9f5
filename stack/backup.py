"""Back up a server to a folder, and restore it: the database, the blobs, and the keys of the home.

manifest.json      format, time, revision and store id, digest of the dump; written last, so a backup without it is unfinished
database-*.dump    pg_dump's custom format
blobs/             as in a blob store that is a folder; a later backup to the same folder adds what is new
sealing.key, credentials.json   as far as the home has them, readable by their owner alone
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, make_url, text

from distill import sealing
from distill.db import normalise_url
from distill.errors import StorageError
from distill.settings import Settings
from distill.storage import BlobStore, FolderStore, open_store
from migrations.runner import check_known, current
from stack.binaries import find_postgres
from stack.crew import Crew
from stack.errors import StackError
from stack.home import HomeLock, open_home, write_private
from stack.postgres import is_cluster
from stack.servers import plan_servers

FORMAT = 1
_KEYS = (sealing.FILE, "credentials.json")
_PASSED_ON = ("host", "port", "user", "password", "dbname", "options", "passfile")
_NO_BROKER = {"REDIS_URL": "redis://127.0.0.1:1"}
Say = Callable[[str], None]


def back_up(settings: Settings, folder: Path, say: Say) -> None:
    """Copy the server of these settings to `folder`; running or not. Raises StackError and StillhouseError.

    The database comes first: a blob is stored before a row points at it, so blobs that are copied later hold all that the dump points at.
    A backup that was there stays whole until the manifest of the new one takes its place.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    dump = folder / f"database-{time.time_ns()}.dump"
    with _database(settings, must_exist=True) as url:
        store, target = open_store(settings), FolderStore(folder / "blobs")
        with _connected(url) as connection:
            revision, owner = current(connection), store.owner()
        _claim(target, owner)
        _run_tool(url, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={dump}")
        say(f"Database: {dump.stat().st_size / 1e6:.1f} MB at revision {revision}.")
        damaged = _copy_blobs(store, target, say)
    for name in _KEYS:
        if (source := settings.home / name).is_file():
            write_private(folder / name, source.read_text())
    if not sealing.has_own_file():
        say(f"The sealing key is in {sealing.VARIABLE} and not in the backup: keep it, too.")
    facts = {"format": FORMAT, "made_at": int(time.time()), "revision": revision, "store_id": owner}
    write_private(folder / "manifest.json", json.dumps({**facts, "dump": dump.name, "dump_sha256": _sha256(dump)}, indent=1))
    for earlier in folder.glob("database-*.dump"):
        if earlier != dump:
            earlier.unlink()
    if damaged:
        raise StackError(f"the backup lacks {len(damaged)} blobs that could not be read: {'; '.join(damaged[:5])}")


def restore(settings: Settings, folder: Path, say: Say) -> None:
    """Put a backup into the home and database of these settings, which have to be empty. Raises StackError and StillhouseError."""
    facts = _manifest(folder)
    if found := [name for name in _KEYS if (settings.home / name).exists()]:
        raise StackError(f"{settings.home} is the home of a server (it has {' and '.join(found)}): name an empty folder with --home")
    if (owner := open_store(settings).owner()) is not None:
        raise StackError(f"{open_store(settings)} belongs to a server already ({owner}): name an empty one in [blobs], or another --home")
    with _database(settings, must_exist=False) as url:
        with _connected(url) as connection:
            if connection.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")):
                raise StackError("the database is not empty: name another one in DATABASE_URL, or another home with --home")
        options = ("--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error")
        _run_tool(url, "pg_restore", *options, f"--dbname={url.database}", folder / facts["dump"])
        say(f"Database: at revision {facts['revision']}.")
        with _connected(url) as connection:
            check_known(connection)
        store = open_store(settings)
        _claim(store, facts["store_id"])
        if damaged := _copy_blobs(FolderStore(folder / "blobs"), store, say):
            raise StackError(f"the backup is damaged: {'; '.join(damaged[:5])}")
    for name in _KEYS:
        if (folder / name).is_file():
            write_private(settings.home / name, (folder / name).read_text())


@contextlib.contextmanager
def _database(settings: Settings, *, must_exist: bool) -> Iterator[URL]:
    """The address of the server's database, running: the operator's, that of a stack that runs, or the embedded one, started for this."""
    if "DATABASE_URL" in os.environ:
        yield make_url(normalise_url(settings.database_url))
        return
    home = open_home(settings.home)
    if must_exist and not is_cluster(home / "pg"):
        raise StackError(f"{home} has no database: name its home with --home")
    if not must_exist and is_cluster(home / "pg"):
        raise StackError(f"{home} has a database: name an empty folder with --home")
    lock = HomeLock(home)
    lock.acquire()
    crew = Crew(home, dict(os.environ), lambda _name, _line: None, lock.fd)
    try:
        servers = plan_servers(home, _NO_BROKER)
        crew.wait_ready([crew.start(part) for part in servers.parts])
        yield make_url(normalise_url(servers.database_url))
    except BaseException:
        if not must_exist:  # what was made is incomplete
            crew.stop()
            shutil.rmtree(home / "pg", ignore_errors=True)
            (home / "state.json").unlink(missing_ok=True)
        raise
    finally:
        crew.stop()
        lock.release()


@contextlib.contextmanager
def _connected(url: URL) -> Iterator[Connection]:
    engine = create_engine(url, hide_parameters=True)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _run_tool(url: URL, tool: str, *arguments: str | Path) -> None:
    """Run a client program of PostgreSQL on a database. The password is in no argument list. Raises StackError."""
    options: dict[str, Any] = {
        f"PG{name.upper()}": value for name, value in url.query.items() if name in _PASSED_ON or name.startswith("ssl")
    }
    given = {"PGHOST": url.host, "PGPORT": url.port, "PGUSER": url.username, "PGPASSWORD": url.password, "PGDATABASE": url.database}
    options |= {name: value for name, value in given.items() if value is not None}
    environment = {**os.environ, **{name: str(value) for name, value in options.items()}}
    command = [str(find_postgres() / tool), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, umask=0o077)
    if done.returncode:
        raise StackError(f"{tool} failed: {done.stderr.strip()}")


def _claim(store: BlobStore, owner: str | None) -> None:
    """Tie a store to a database. Raises StackError for one of another server, before anything is written to it."""
    if owner is not None and (found := store.claim_for(owner)) != owner:
        raise StackError(f"{store} belongs to another server ({found}): name an empty one")


def _copy_blobs(source: BlobStore, target: BlobStore, say: Say) -> list[str]:
    """Copy what is missing, and return what is wrong with those that cannot be read.

    Both stores check that the bytes are those that a name stands for.
    """
    there = {blob.digest: blob.size_bytes for blob in target.listing()}
    copied = size = 0
    damaged = []
    for blob in source.listing():
        if there.get(blob.digest) == blob.size_bytes:
            continue
        try:
            with source.open(blob.digest) as file:
                target.put(file)
        except StorageError as error:
            if error.code != "blob_missing":  # else nothing needed it any more, and it was collected meanwhile
                damaged.append(error.message)
            continue
        copied, size = copied + 1, size + blob.size_bytes
    say(f"Blobs: {copied} copied, {size / 1e6:.1f} MB; {len(there)} were there.")
    return damaged


def _manifest(folder: Path) -> dict[str, Any]:
    """Raises StackError for what is no whole backup."""
    try:
        facts: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        if facts["format"] == FORMAT and _sha256(folder / Path(str(facts["dump"])).name) == facts["dump_sha256"]:
            return facts
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StackError(f"{folder} holds no finished backup: its manifest.json cannot be read") from error
    raise StackError(f"{folder} is damaged, or was made by another version: its dump is not what manifest.json says")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
