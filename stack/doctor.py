"""What `stillhouse-server doctor` looks at. Each check tells what it found, and what to do where that is not well."""

import os
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from distill.catalog.blobs import check_store, store_id
from distill.db import unit_of_work
from distill.errors import StillhouseError
from distill.settings import ConnectionSettings, Settings
from distill.storage import open_store
from migrations.runner import current, head

_PACKAGES = ("stillhouse-server", "stillhouse-programs", "dspy", "fastapi", "sqlalchemy", "celery", "torch", "transformers", "peft")
_LEAST_FREE_GB = 2.0


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    ok: bool
    detail: str

    @property
    def mark(self) -> str:
        return "[green]✓[/]" if self.ok else "[bold red]✗[/]"

    @property
    def failed(self) -> int:
        return 0 if self.ok else 1


def examine(settings: Settings) -> Iterator[Finding]:
    """All findings, one by one as they are made."""
    yield Finding("Python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("Packages", True, ", ".join(_package(name) for name in _PACKAGES))
    yield _guarded("PostgreSQL", _postgres)
    yield _guarded("Migrations", _migrations)
    yield _guarded("Redis", lambda: _redis(settings.redis_url))
    yield _guarded("Blob store", lambda: _blobs(settings))
    yield _disk(settings.home)
    for name, connection in _connections(settings).items():
        yield _guarded(f"Connection {name}", lambda entry=connection: _connection(entry))  # type: ignore[misc]


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """A server that is not there is a finding, not a crash."""
    try:
        found = check()
    except (SQLAlchemyError, redis.RedisError, StillhouseError, OSError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return Finding(name, False, first_line)
    return Finding(name, found.ok, found.detail)


def _package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} not installed"


def _postgres() -> Finding:
    with unit_of_work() as session:
        number = int(session.execute(text("SHOW server_version_num")).scalar_one())
        name = session.execute(text("SHOW server_version")).scalar_one()
    return Finding("", number >= 160000, f"version {name}" + ("" if number >= 160000 else "; 16 or newer is needed"))


def _migrations() -> Finding:
    at, newest = current(), head()
    return Finding("", at == newest, f"at {at}" + ("" if at == newest else f", the newest is {newest}: run `stillhouse-server migrate`"))


def _redis(url: str) -> Finding:
    with redis.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3) as client:
        server = client.info("server")
        policy = client.config_get("maxmemory-policy")["maxmemory-policy"]
    name = f"Valkey {server['valkey_version']}" if "valkey_version" in server else f"Redis {server['redis_version']}"
    ok = policy == "noeviction"
    return Finding("", ok, f"{name}, maxmemory-policy {policy}" + ("" if ok else "; set noeviction, or hints are lost when memory is full"))


def _blobs(settings: Settings) -> Finding:
    store = open_store(settings)
    with unit_of_work() as session:
        check_store(session, store)
        wanted = store_id(session)
    return Finding("", True, f"{store} belongs to this database ({wanted})")


def _disk(home: Path) -> Finding:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    ok = free >= _LEAST_FREE_GB
    return Finding("Disk", ok, f"{free:.0f} GB free for {home}" + ("" if ok else f"; at least {_LEAST_FREE_GB:.0f} GB are needed"))


def _connections(settings: Settings) -> dict[str, ConnectionSettings]:
    found = dict(settings.connections)
    if settings.lmhost_url:
        found.setdefault("house", ConnectionSettings(base_url=settings.lmhost_url, api_key_env="STILLHOUSE_LMHOST_KEY"))
    return found


def _connection(connection: ConnectionSettings) -> Finding:
    """Asks for the list of models, which costs nothing."""
    if connection.api_key_env and connection.api_key_env not in os.environ:
        return Finding("", False, f"its key is not set: {connection.api_key_env}")
    key = os.environ.get(connection.api_key_env or "", "")
    url = f"{connection.base_url.rstrip('/')}/models"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})  # noqa: S310 - the operator's address
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310
            return Finding("", True, f"{url} answers {reply.status}")
    except urllib.error.HTTPError as error:
        with error:
            return Finding("", False, f"{url} answers {error.code} {error.reason}")
