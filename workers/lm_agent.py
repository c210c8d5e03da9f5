"""`python -m workers.lm_agent --connection house`: keeps one connection's LM host in line.

It loads and unloads LoRA adapters as the database wants them, and lends the host's device to trainers. Run one beside each LM host: the
adapters' files are put into a folder that both can read.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import threading
import time

import structlog
from sqlalchemy.exc import SQLAlchemyError

from distill import ending, logs, tracing
from distill.catalog import blobs, connections
from distill.catalog.models import Connection
from distill.catalog.targets import target_of
from distill.db import is_outage, unit_of_work
from distill.errors import NotFound, StillhouseError, in_one_line
from distill.execute.lm_host import HostRefused, HostUnreachable, LmHostClient
from distill.execute.placements import Agent
from distill.settings import Settings, get_settings
from distill.storage import open_store
from migrations.runner import check_schema

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 2.0
LOAD_SECONDS = 300.0
"""For so long a host that was never reached may be loading its weights; after that its address or its key is looked at."""


class Loop:
    """Ticks until it is stopped. What cannot be reached is waited for, for as long as it takes, and told of once."""

    def __init__(self, agent: Agent, seconds: float) -> None:
        self._agent, self._seconds = agent, seconds
        self._stopping = threading.Event()
        self._noted = "", logging.INFO
        self._expected_until = time.monotonic() + LOAD_SECONDS

    def stop(self) -> None:
        """End after the present tick; from any thread or signal handler."""
        self._stopping.set()

    def run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            try:
                self._agent.tick()
                pause = self._seconds
                self._expected_until = 0.0
                self._note("")
            except (HostUnreachable, HostRefused, SQLAlchemyError, OSError) as error:
                pause = PAUSE_SECONDS
                expected = isinstance(error, HostUnreachable) and time.monotonic() < self._expected_until
                self._note(f"{type(error).__name__}: {in_one_line(error)}", logging.INFO if expected else logging.WARNING)

    def _note(self, trouble: str, level: int = logging.INFO) -> None:
        """A host takes a minute to load its weights: that is no warning, and the same line each time would hide all others."""
        if (trouble, level) == self._noted:
            return
        self._noted = trouble, level
        log.log(level, "agent waits", error=trouble) if trouble else log.info("agent goes on")


def make_agent(settings: Settings, name: str) -> Agent:
    """The agent of a connection. Raises NotFound when there is none, StartRefused, and StorageError for another database's blobs."""
    store = open_store(settings)
    with unit_of_work() as s:
        check_schema(s)
        blobs.check_store(s, store)
        connections.sync(s, settings)
        connection = connections.find(s, name)
    if connection is None:
        raise NotFound(f"there is no connection {name}: see [connections] in stillhouse.toml")
    cache = settings.home.absolute() / "lora"
    return Agent(connection, client_of(connection), store, cache, f"{socket.gethostname()}-{os.getpid()}")


def client_of(connection: Connection) -> LmHostClient:
    """The host's client; its key is read from this process's environment."""
    return LmHostClient(connection.base_url, target_of(connection, "").api_key)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connection", required=True, help="name of the connection whose LM host runs beside this process")
    arguments = parser.parse_args()
    logs.configure("lm-agent")
    tracing.configure("lm-agent")
    settings = get_settings()
    try:
        agent = make_agent(settings, arguments.connection)
    except Exception as error:
        if not isinstance(error, StillhouseError) and not is_outage(error):
            raise
        log.error("lm-agent cannot start", error=in_one_line(error))
        raise SystemExit(1) from None
    loop = Loop(agent, settings.timers.dispatch_poll_seconds / 2)
    ending.when_told(loop.stop)
    log.info("lm-agent ready", connection=arguments.connection)
    loop.run()
    tracing.stop()


if __name__ == "__main__":
    main()
