"""Connections that a call of the gateway finds away: clients' work that needs them waits, as workers' work does."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool

from distill.catalog import waits
from distill.db import unit_of_work
from distill.relay import Relay, Wait


async def note_wait(relay: Relay, connection: str) -> None:
    """After a call that failed: write down that its connection takes no calls, if it is known to."""
    wait = relay.waits([connection]).get(connection)
    if wait is not None:
        await run_in_threadpool(_note, connection, wait)


def _note(connection: str, wait: Wait) -> None:
    with unit_of_work("api") as session:
        waits.limit_for_clients(session, connection, wait.reason, wait.seconds)
