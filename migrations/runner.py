"""Migrate the database from code: `stillhouse-server migrate`, the embedded stack and the tests use it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from distill.db import Session, normalise_url
from distill.errors import StartRefused
from distill.settings import get_settings

OLDEST_POSTGRES = 160_000
"""The oldest server that is supported, as `server_version_num` gives it."""


def config(database_url: str | None = None) -> Config:
    """Alembic's configuration for this package's revisions."""
    result = Config()
    result.set_main_option("script_location", str(Path(__file__).parent))
    result.attributes["database_url"] = normalise_url(database_url or get_settings().database_url)
    return result


def upgrade(database_url: str | None = None, revision: str = "head") -> None:
    """Bring the database to `revision`. Two at once are safe: the second waits for the first's lock, then finds nothing to do.

    Raises StartRefused when the server is too old, or the database at a revision that only a newer version knows.
    """
    command.upgrade(config(database_url), revision)


def downgrade(database_url: str | None = None, revision: str = "base") -> None:
    command.downgrade(config(database_url), revision)


def step_down(revision: str) -> None:
    """Bring the database back to an older revision. Raises StartRefused where it is not known, or is not behind the database."""
    known = [script.revision for script in _scripts().walk_revisions()]
    with create_engine(normalise_url(get_settings().database_url), poolclass=NullPool).connect() as connection:
        check_known(connection)
        at = current(connection)
    if revision not in known or at is None or known.index(revision) <= known.index(at):
        raise StartRefused(f"the database is at revision {at or 'none'}, and {revision} is not one before it: name one of those")
    downgrade(revision=revision)


def head() -> str | None:
    """The newest revision this code knows."""
    return _scripts().get_current_head()


def check_server(connection: Connection) -> None:
    """Raises StartRefused when the server is older than the oldest PostgreSQL that is supported."""
    number, version = connection.execute(text("SELECT current_setting('server_version_num')::int, current_setting('server_version')")).one()
    if number < OLDEST_POSTGRES:
        raise StartRefused(f"the server of the database is PostgreSQL {version}: upgrade it to {OLDEST_POSTGRES // 10_000} or newer")


def current(connection: Connection) -> str | None:
    """The revision the database is at; None on an empty one."""
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    at: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return at


def check_schema(s: Session) -> None:
    """Every process calls it at start. Raises StartRefused when the database is not at this code's revision, or its server is too old."""
    check_server(s.connection())
    at, newest = current(s.connection()), head()
    if at != newest:
        check_known(s.connection())
        raise StartRefused(f"the database is at revision {at or 'none'} and this version needs {newest}: run `stillhouse-server migrate`")


def check_known(connection: Connection) -> None:
    """Raises StartRefused when a newer version has migrated the database: this one does not know what its columns mean."""
    at = current(connection)
    if at is not None and at not in {script.revision for script in _scripts().walk_revisions()}:
        raise StartRefused(
            f"the database is at revision {at}, which this version (up to {head()}) does not know: start the version that migrated it"
        )


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(config())
