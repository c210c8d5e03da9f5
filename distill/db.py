"""The database: one engine per process, and `unit_of_work()`, the only code that commits."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import JSON, DateTime, Engine, MetaData, Select, create_engine, make_url, text
from sqlalchemy.exc import DataError, InterfaceError, OperationalError, TimeoutError
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session

from distill.settings import get_settings

__all__ = [
    "Base",
    "JsonDoc",
    "Listing",
    "Page",
    "Session",
    "dispose",
    "engine",
    "is_outage",
    "is_unstorable",
    "listen_dsn",
    "normalise_url",
    "now",
    "paginate",
    "unit_of_work",
]

Row = TypeVar("Row")
Door = Literal["api", "worker"]
JsonDoc = JSON(none_as_null=True)
"""`json`, never `jsonb`: the order of a user's keys is part of a prompt, and only `json` keeps it."""

PARTITIONS = 8


class Base(DeclarativeBase):
    """Base of all ORM rows. Constraint names are fixed, so that a migration can name what it drops."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: DateTime(timezone=True),
        dict[str, Any]: JsonDoc,
        list[Any]: JsonDoc,
    }


def normalise_url(url: str) -> str:
    """Every PostgreSQL address is served by psycopg 3, whatever driver it names."""
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def listen_dsn() -> str:
    """The address for a bare psycopg connection (LISTEN), in libpq's form."""
    return make_url(get_settings().database_url).set(drivername="postgresql").render_as_string(hide_password=False)


_engines: dict[Door, Engine] = {}
_lock = threading.Lock()


def engine(door: Door = "api") -> Engine:
    """The process's engine for one door. The API's statements are short and bounded; a worker's may take longer."""
    with _lock:
        if door not in _engines:
            _engines[door] = _make_engine(door)
        return _engines[door]


def _make_engine(door: Door) -> Engine:
    limits = get_settings().limits
    # A caller would rather hear "try again"; a worker would rather wait its turn than lose the work it publishes.
    statement, lock, idle = (limits.api_statement_seconds, 2, 15) if door == "api" else (limits.worker_statement_seconds, 30, 60)
    timeouts = {"statement_timeout": statement, "lock_timeout": lock, "idle_in_transaction_session_timeout": idle}
    options = " ".join(f"-c {name}={int(seconds * 1000)}" for name, seconds in timeouts.items()) + " -c timezone=UTC"
    return create_engine(
        normalise_url(get_settings().database_url),
        pool_pre_ping=True,
        pool_timeout=2 if door == "api" else 30,
        pool_size=10,
        max_overflow=10,
        connect_args={"options": options, "keepalives_idle": 30, "application_name": f"stillhouse-{door}-{os.getpid()}"},
    )


@contextmanager
def unit_of_work(door: Door = "worker") -> Iterator[Session]:
    """One transaction: commits when the block ends, rolls back when it raises. Rows stay readable afterwards."""
    with Session(engine(door), expire_on_commit=False) as session, session.begin():
        yield session


def allow_idle(session: Session, seconds: float) -> None:
    """Let this transaction stand idle for so long while its request waits for another process."""
    session.execute(text("SELECT set_config('idle_in_transaction_session_timeout', :ms, true)"), {"ms": str(int(seconds * 1000))})


def is_outage(error: BaseException) -> bool:
    """True when the database is the reason, not what was asked: not reached, shut down, no free connection, too slow."""
    return isinstance(error, OperationalError | InterfaceError | TimeoutError)


def is_unstorable(error: BaseException) -> bool:
    """True when a value cannot be a column's: a text with NUL, a number out of range."""
    return isinstance(error, DataError)


def now(s: Session) -> datetime:
    """The database's clock: the only one that leases, ages and deadlines are measured by."""
    stamp: datetime = s.execute(text("SELECT clock_timestamp()")).scalar_one()
    return stamp


def dispose() -> None:
    """Close the process's connections and forget its engines (after a fork, or when the address changes)."""
    while _engines:
        _engines.popitem()[1].dispose()


# ------------------------------------------------------------------ lists


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a keyset list. Ids sort by creation, so `after` stays right under inserts."""

    limit: int = 20
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"


@dataclass(frozen=True, slots=True)
class Listing(Generic[Row]):
    """The rows of a page, and whether more follow."""

    data: list[Row]
    has_more: bool


def paginate(s: Session, statement: Select[Row], key: InstrumentedAttribute[Any], page: Page) -> Listing[Row]:
    """Run a select as one page, ordered by `key`."""
    if page.after is not None:
        statement = statement.where(key < page.after if page.order == "desc" else key > page.after)
    statement = statement.order_by(key.desc() if page.order == "desc" else key.asc()).limit(page.limit + 1)
    rows = list(s.scalars(statement))
    return Listing(rows[: page.limit], len(rows) > page.limit)
