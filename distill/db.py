"""The database: one engine per process, and `unit_of_work()`, the only code that commits."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import structlog
from sqlalchemy import JSON, Connection, DateTime, Engine, MetaData, Select, create_engine, make_url, text
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError, TimeoutError
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session
from sqlalchemy.pool import QueuePool
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random, wait_random_exponential

from distill.settings import get_settings

__all__ = [
    "Base",
    "CommitUnknown",
    "Door",
    "JsonDoc",
    "Listing",
    "Page",
    "Session",
    "dispose",
    "engine",
    "is_away",
    "is_outage",
    "is_undone",
    "is_unstorable",
    "listen_dsn",
    "normalise_url",
    "now",
    "on_commit",
    "paginate",
    "pool_use",
    "readable",
    "repeated",
    "unit_of_work",
]

log = structlog.get_logger(__name__)

Row = TypeVar("Row")
T = TypeVar("T")
Door = Literal["api", "worker"]
JsonDoc = JSON(none_as_null=True)
"""`json`, never `jsonb`: the order of a user's keys is part of a prompt, and only `json` keeps it."""

PARTITIONS = 8
_ON_COMMIT = "on_commit"


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
    limits, lease = get_settings().limits, get_settings().timers.lease_seconds
    # A caller would rather hear "try again"; a worker would rather wait its turn than lose the work it publishes. But one that stands still
    # in a transaction has its item locked, and keeps the reaper out: not for longer than a lease.
    worker = (limits.worker_statement_seconds, 30, max(1, min(60, lease)))
    statement, lock, idle = (limits.api_statement_seconds, 2, 15) if door == "api" else worker
    timeouts = {"statement_timeout": statement, "lock_timeout": lock, "idle_in_transaction_session_timeout": idle}
    options = " ".join(f"-c {name}={int(seconds * 1000)}" for name, seconds in timeouts.items())
    return create_engine(
        normalise_url(get_settings().database_url),
        hide_parameters=True,  # errors go to the log; prompts, answers and rows do not
        pool_pre_ping=True,  # a restart of the server is seen before a statement is lost to it
        pool_timeout=2 if door == "api" else 30,  # 503 comes soon; a worker's publish waits
        pool_size=10,
        max_overflow=10,
        connect_args={
            # What was answered is on disk, whatever the server's own default is: an accepted job is never lost.
            "options": f"{options} -c timezone=UTC -c synchronous_commit=on",
            "connect_timeout": 3 if door == "api" else 10,  # without one, a host that is gone is waited for by TCP, for minutes
            "keepalives_idle": 30,  # these three: a silent network is seen after a minute, before a lease has lapsed
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,  # ms; and after 20 s where something was sent
            "application_name": f"stillhouse-{door}-{os.getpid()}",
        },
    )


def readable(column: str) -> str:
    r"""SQL for a `json` value to look into: PostgreSQL stores `\u0000` and lone surrogates there, and fails where it reads such a text.

    All surrogates are replaced, so what is read this way has to be our own: ids, digests, numbers.
    """
    # What is left of an escaped backslash before `u0000` is valid, too.
    return rf"CAST(regexp_replace(CAST({column} AS text), '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{{2}})', '\\ufffd', 'g') AS json)"


# ------------------------------------------------------------------ transactions


class CommitUnknown(SQLAlchemyError):
    """The connection broke while the transaction was committed: it is there as a whole, or not at all."""


@contextmanager
def unit_of_work(door: Door = "worker", *, waits: bool = True) -> Iterator[Session]:
    """One transaction: commits when the block ends, rolls back when it raises. Rows stay readable afterwards.

    A worker waits a quarter of a lease for a database that does not answer, unless `waits` is False. Raises CommitUnknown.
    """
    with _session(door, waits) as session:
        yield session
        session.flush()
        committed, calls = session.get_transaction(), session.info.get(_ON_COMMIT, ())
        _commit(session)
        for begun_in, call in calls:
            if begun_in is committed:
                _call(call)


def on_commit(s: Session, call: Callable[[], None]) -> None:
    """Have `call` called once the present transaction of a `unit_of_work` has committed; not if it is rolled back.

    An error of `call` is logged: what was asked for is done all the same.
    """
    s.info.setdefault(_ON_COMMIT, []).append((s.get_transaction(), call))


def _call(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:
        log.exception("call_after_commit_failed")


def repeated(work: Callable[[Session], T], *, times: int = 3) -> T:
    """Run a worker's transaction, whole and anew after a deadlock, a failed serialisation or a lost connection.

    For work that does no harm when it is done twice: fenced, or taking what is there for done. Its last error is raised.
    """

    def once() -> T:
        with unit_of_work() as s:
            return work(s)

    again = retry_if_exception(lambda error: is_undone(error) or isinstance(error, CommitUnknown))
    return Retrying(retry=again, stop=stop_after_attempt(times), wait=wait_random(0.05, 0.5), reraise=True)(once)


@contextmanager
def _session(door: Door, waits: bool) -> Iterator[Session]:
    if door == "worker" and waits:
        with _reached(engine(door)) as connection, Session(connection, expire_on_commit=False) as session:
            yield session
    else:
        with Session(engine(door), expire_on_commit=False) as session:
            yield session


def _reached(found: Engine) -> Connection:
    patience = stop_after_delay(get_settings().timers.lease_seconds / 4)
    return Retrying(retry=retry_if_exception(is_away), stop=patience, wait=wait_random_exponential(0.1, max=2), reraise=True)(found.connect)


def _commit(session: Session) -> None:
    try:
        session.commit()
    except DBAPIError as error:
        if is_away(error):
            raise CommitUnknown("the connection broke during a commit") from error
        raise


def is_outage(error: BaseException) -> bool:
    """True when the database is the reason, not what was asked: not reached, shut down, no free connection, too slow, full, read-only."""
    if isinstance(error, OperationalError | InterfaceError | TimeoutError | CommitUnknown):
        return True
    return isinstance(error, DBAPIError) and (error.connection_invalidated or _sqlstate(error) in _NOT_NOW)


_NOT_NOW = frozenset({"25006", "25P03", "25P04"})
"""A standby that was promoted away, a transaction that stood idle or open for too long."""
_TAKEN_BACK = frozenset({"40001", "40P01"})
"""Failed serialisation, deadlock: rolled back so that another transaction could pass."""


def is_away(error: BaseException) -> bool:
    """True when the database was lost or not reached, or has no room for anybody: what was done in vain is nobody's fault."""
    if isinstance(error, CommitUnknown):
        return True
    state = _sqlstate(error)
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return lost or (isinstance(error, OperationalError) and (not state or state.startswith(("08", "53", "57P"))))


def is_undone(error: BaseException) -> bool:
    """True when nothing of the transaction was kept, and the same once more may pass: taken back, or cut off before its commit."""
    if isinstance(error, CommitUnknown):
        return False
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return lost or _sqlstate(error) in _TAKEN_BACK


def _sqlstate(error: BaseException) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")


def is_unstorable(error: BaseException) -> bool:
    """True when a value cannot be a column's: a text with NUL, a number out of range."""
    return isinstance(error, DataError)


def now(s: Session) -> datetime:
    """The database's clock: the only one that leases, ages and deadlines are measured by."""
    stamp: datetime = s.execute(text("SELECT clock_timestamp()")).scalar_one()
    return stamp


def pool_use(door: Door) -> dict[str, int]:
    """How many of the process's connections are in use, and how many are open and idle."""
    pool = engine(door).pool
    return {"used": pool.checkedout(), "idle": pool.checkedin()} if isinstance(pool, QueuePool) else {}


def dispose() -> None:
    """Close the process's connections and forget its engines (after a fork, or when the address changes)."""
    while _engines:
        _engines.popitem()[1].dispose()


# ------------------------------------------------------------------ lists


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a keyset list. Ids sort by creation, so `after` stays right under inserts.

    `created_after` and `metadata` narrow the list, where its rows have them.
    """

    limit: int = 20
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"
    created_after: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing(Generic[Row]):
    """The rows of a page, and whether more follow."""

    data: list[Row]
    has_more: bool


def paginate(s: Session, statement: Select[Row], key: InstrumentedAttribute[Any], page: Page) -> Listing[Row]:
    """Run a select as one page, ordered by `key`."""
    if page.after is not None:
        statement = statement.where(key < page.after if page.order == "desc" else key > page.after)
    if page.created_after is not None:
        statement = statement.where(key.class_.created_at > page.created_after)
    for name, value in page.metadata.items():
        statement = statement.where(key.class_.user_metadata.op("->>")(name) == value)
    statement = statement.order_by(key.desc() if page.order == "desc" else key.asc()).limit(page.limit + 1)
    rows = list(s.scalars(statement))
    return Listing(rows[: page.limit], len(rows) > page.limit)
