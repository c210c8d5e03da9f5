"""What `stillhouse-server doctor` looks at. Each check tells what it found, and what to do where that is not well."""

import os
from collections.abc import Callable, Iterator

import redis
from sqlalchemy.exc import SQLAlchemyError

from distill import tracing
from distill.db import Session, unit_of_work
from distill.errors import StillhouseError, in_one_line
from distill.settings import Settings
from stack import machine_checks as machine
from stack import server_checks as servers
from stack import training_checks as training
from stack.findings import Finding, wrong

_LOST = {
    "Redis": "start Redis, or mend REDIS_URL",
    "Blob store": "see [blobs] in stillhouse.toml",
}
_NO_DATABASE = "start PostgreSQL, or mend DATABASE_URL; `stillhouse-server up` starts one of its own"


def examine(settings: Settings) -> Iterator[tuple[str, Finding]]:
    """All findings, by name, one by one as they are made. A database that does not answer is told of once, not for each question."""
    yield "Python", machine.python()
    yield "Packages", machine.packages()
    yield "Settings", machine.settings_file(os.environ.get("STILLHOUSE_CONFIG"))
    database = _guarded("PostgreSQL", lambda: _asking(servers.postgres))
    yield "PostgreSQL", database
    if database.advice != _NO_DATABASE:
        yield "Clock", _guarded("Clock", lambda: _asking(servers.clock))
        migrations = _guarded("Migrations", lambda: _asking(servers.migrations))
        yield "Migrations", migrations
        if migrations.level == "well":  # else its tables are not those that this version looks at
            yield "Workers", _guarded("Workers", lambda: _asking(servers.workers))
            yield "Blob store", _guarded("Blob store", lambda: _asking(lambda s: servers.blob_store(s, settings)))
            yield "Stored secrets", _guarded("Stored secrets", lambda: _asking(servers.stored_secrets))
    yield "Redis", _guarded("Redis", lambda: servers.broker(settings))
    yield "Disk", machine.disk(settings)
    yield "Timers", machine.timers(settings.timers)
    yield from machine.runtimes(settings)
    yield "Sandbox", machine.sandbox(settings)
    if (endpoint := tracing.endpoint()) is not None:
        yield "Tracing", machine.spans(endpoint)
    yield "Device", machine.device()
    yield from training.findings(settings)
    for name, connection in machine.connections(settings).items():
        yield f"Connection {name}", machine.connection(connection)


def _asking(look: Callable[[Session], Finding]) -> Finding:
    with unit_of_work("api") as s:
        return look(s)


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """A server that is not there is a finding, not a crash. Our own errors say what to do themselves."""
    try:
        return check()
    except StillhouseError as error:
        detail, _, advice = error.message.partition(": ")
        return wrong(detail, advice)
    except (SQLAlchemyError, redis.RedisError, OSError) as error:
        return wrong(in_one_line(error), _LOST.get(name, _NO_DATABASE))
