"""PostgreSQL and Valkey together: embedded ones unless the environment names servers of the operator's own."""

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.crew import Crew
from stack.home import read_state, write_state
from stack.parts import Part
from stack.postgres import DATABASE, EmbeddedPostgres
from stack.valkey import EmbeddedValkey


@dataclass(frozen=True)
class Servers:
    """Addresses of the two servers, and the parts to start for them.

    Attributes:
        database_url: SQLAlchemy address.
        redis_url: address for the Celery broker.
        parts: the embedded servers; empty when both are the operator's.
        postgres: the embedded PostgreSQL, if it is ours.
        notice: what was moved, for the operator; None where nothing was.
    """

    database_url: str
    redis_url: str
    parts: tuple[Part, ...]
    postgres: EmbeddedPostgres | None
    notice: str | None


def plan_servers(home: Path, environment: Mapping[str, str], *, fast: bool = False) -> Servers:
    """Prepare the embedded servers that are needed; DATABASE_URL and REDIS_URL in the environment take their place.

    Raises DatabaseGone.
    """
    state = read_state(home)
    password = str(state.get("password") or secrets.token_urlsafe(24))
    postgres = None if environment.get("DATABASE_URL") else EmbeddedPostgres(home, password, fast=fast)
    valkey = None if environment.get("REDIS_URL") else EmbeddedValkey(home, password, fast=fast)
    notice = postgres.prepare(first_start="password" not in state) if postgres else None
    write_state(home, {**state, "password": password})
    if valkey:
        valkey.prepare()
    return Servers(
        database_url=postgres.url(DATABASE) if postgres else environment["DATABASE_URL"],
        redis_url=valkey.url if valkey else environment["REDIS_URL"],
        parts=tuple(server.part() for server in (postgres, valkey) if server),
        postgres=postgres,
        notice=notice,
    )


@contextlib.contextmanager
def scratch_servers(home: Path) -> Iterator[Servers]:
    """Both embedded servers without durability, for as long as the context lasts; their data are removed with it."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    servers = plan_servers(home, environment, fast=True)
    crew = Crew(home, environment, lambda _name, _line: None)
    crew.clean_later([home])
    try:
        crew.wait_ready([crew.start(part) for part in servers.parts])
        yield servers
    finally:
        crew.stop()
