"""Fixtures for everybody: real servers, one migrated template database, a clean clone, a clean environment.

servers      session   embedded PostgreSQL and Valkey, started when the first test asks for them
postgres_url session   address of the maintenance database
template     session   name of the migrated database that clones are made of
clone        module    address of a clone; tests that run several processes may share it
database     test      the module's clone with the settings pointing at it; its rows are deleted afterwards
session      test      an ORM session on it whose work, commits included, is rolled back
redis_url    test      the Valkey server, emptied before the test
tiny_model   session   folder of a base model that is random, but small and whole
stack        session   the whole stack on that base model (see `stack.supervisor.Stack`)
s3           test      an S3-compatible server, with its keys in the environment
place        test      a bucket of it
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import HealthCheck, settings

from stack.servers import Servers, scratch_servers
from tests.support import databases

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from distill.settings import BlobSettings
    from stack.supervisor import Stack
    from tests.support.s3 import S3Server

# The same examples in every run, however slow the machine: a run that fails can be repeated, and no clock decides whether it does.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

# To pytest, which shows them with a test that failed. Printed, they would stand among what commands under test print, and those that a
# server's thread writes between two tests, when nothing is captured, among pytest's own.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(key_order=["event"]),
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
)
for package in ("app", "distill", "migrations", "stack", "workers"):
    logging.getLogger(package).setLevel(logging.INFO)
    logging.getLogger(package).addHandler(logging.NullHandler())

_MEMORY = Path("/dev/shm")
_OURS = ("STILLHOUSE_", "DATABASE_URL", "REDIS_URL", "LMHOST_", "AWS_", "OTEL_")


@contextmanager
def _scratch_home() -> Iterator[Path]:
    """A folder in memory where the system has one, else in the temporary folder."""
    parent = _MEMORY if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="stillhouse-test-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def stack_home() -> Iterator[Path]:
    """A home for a stack of the test's own, where the database's user can reach it (pytest's folders are closed to others)."""
    with _scratch_home() as home:
        yield home


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """One PostgreSQL and one Valkey for the whole run (with xdist: for each of its workers)."""
    with _scratch_home() as home, scratch_servers(home) as running:
        yield running


@pytest.fixture(scope="session")
def postgres_url(servers: Servers) -> str:
    assert servers.postgres is not None
    return servers.postgres.url("postgres")


@pytest.fixture(scope="session")
def template(postgres_url: str) -> str:
    """The name of a database at the newest revision; no test connects to it."""
    return databases.make_template(postgres_url)


@pytest.fixture(scope="module")
def clone(postgres_url: str, template: str) -> Iterator[str]:
    """The address of a fresh copy of the template, dropped after the module's last test."""
    with databases.cloned(postgres_url, template) as url:
        yield url


def _forget_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(_OURS):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting of the developer's shell reaches a test; the home is a folder of the test's own."""
    _forget_developer(monkeypatch)
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "stillhouse-home"))
    monkeypatch.setenv("STILLHOUSE_CONFIG", str(tmp_path / "stillhouse.toml"))
    monkeypatch.setenv("STILLHOUSE_SERVER__HOSTS", '["testserver"]')  # what starlette's client calls it
    databases.forget_settings()
    yield
    databases.forget_settings()


@pytest.fixture
def database(clone: str, servers: Servers, monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> Iterator[str]:
    """The address of the module's clone; DATABASE_URL and REDIS_URL name the test servers, and `distill.db` connects to them."""
    monkeypatch.setenv("DATABASE_URL", clone)
    monkeypatch.setenv("REDIS_URL", servers.redis_url)
    databases.forget_settings()
    yield clone
    databases.forget_settings()
    databases.delete_rows(clone)


@pytest.fixture
def session(database: str) -> Iterator["Session"]:
    """A session inside one transaction that is rolled back, whatever the test commits."""
    from sqlalchemy.orm import Session

    from distill.db import engine

    with engine("worker").connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint", expire_on_commit=False) as opened:
            yield opened
        with suppress(Exception):
            transaction.rollback()


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """The address of the Valkey server, without any key left by an earlier test."""
    import redis

    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushdb()
    return servers.redis_url


@pytest.fixture(scope="session")
def _s3_running() -> Iterator["S3Server"]:
    from tests.support.s3 import s3_server

    with s3_server() as running:
        yield running


@pytest.fixture
def s3(_s3_running: "S3Server", clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> "S3Server":
    for name, value in _s3_running.environment.items():
        monkeypatch.setenv(name, value)
    return _s3_running


@pytest.fixture
def place(s3: "S3Server") -> "BlobSettings":
    """A bucket of that server, as the settings name it."""
    return s3.settings()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.tiny_model import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def stack(tiny_model: Path) -> Iterator["Stack"]:
    """API, dispatcher, workers, LM host and servers of its own; starts in about 15 s, so its tests are marked slow.

    The base model is called `local/tiny`.
    """
    from stack.supervisor import Stack

    with _scratch_home() as home, pytest.MonkeyPatch.context() as monkeypatch:
        _forget_developer(monkeypatch)
        monkeypatch.setenv("STILLHOUSE_MODELS", str(tiny_model.parent))
        with Stack(home, fast=True, base_model=f"local/{tiny_model.name}") as running:
            yield running
