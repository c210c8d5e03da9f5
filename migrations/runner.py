"""Migrate the database from code: `stillhouse-server migrate`, the embedded stack and the tests use it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from distill.db import engine, normalise_url
from distill.settings import get_settings


def config(database_url: str | None = None) -> Config:
    """Alembic's configuration for this package's revisions."""
    result = Config()
    result.set_main_option("script_location", str(Path(__file__).parent))
    result.attributes["database_url"] = normalise_url(database_url or get_settings().database_url)
    return result


def upgrade(database_url: str | None = None, revision: str = "head") -> None:
    """Bring the database to `revision`. Two at once are safe: the second waits for the first's lock, then finds nothing to do."""
    command.upgrade(config(database_url), revision)


def downgrade(database_url: str | None = None, revision: str = "base") -> None:
    command.downgrade(config(database_url), revision)


def head() -> str | None:
    """The newest revision this code knows."""
    return ScriptDirectory.from_config(config()).get_current_head()


def current() -> str | None:
    """The revision the database is at; None on an empty one."""
    with engine().connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()
