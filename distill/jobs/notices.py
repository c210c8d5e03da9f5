"""Waking whoever waits for a job's next event: one listening connection a process, and a slow poll should it break."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress

import psycopg
import structlog

from distill.db import listen_dsn
from distill.jobs.events import CHANNEL

log = structlog.get_logger(__name__)

_RECONNECT_SECONDS = 2.0


class Notices:
    """Of one event loop. A notice says only that a job may have news: readers look at the rows.

    A waiter must read the rows, take a ticket *before* that, and wait on the ticket: what comes in between is not lost.
    """

    def __init__(self, poll_seconds: float = 2.0) -> None:
        self._poll_seconds = poll_seconds
        self._tickets: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen, in the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._listen_for_ever())

    async def stop(self) -> None:
        """Stop listening; waiters fall back to their poll."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def ticket(self, job_id: str) -> asyncio.Event:
        """Set at the job's next notice; give it back with `done`."""
        event = asyncio.Event()
        self._tickets[job_id].add(event)
        return event

    def done(self, job_id: str, ticket: asyncio.Event) -> None:
        """Forget a ticket."""
        self._tickets[job_id].discard(ticket)
        if not self._tickets[job_id]:
            del self._tickets[job_id]

    async def wait(self, ticket: asyncio.Event, seconds: float) -> None:
        """Return at the notice, or after `seconds` or the poll time, whichever is first; the ticket may be used again."""
        with suppress(TimeoutError):
            await asyncio.wait_for(ticket.wait(), min(seconds, self._poll_seconds))
        ticket.clear()

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                await self._listen()
            except psycopg.Error as error:
                log.warning("notices_lost", error=str(error))
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen(self) -> None:
        async with await psycopg.AsyncConnection.connect(listen_dsn(), autocommit=True, connect_timeout=5) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            async for notice in connection.notifies():
                for ticket in self._tickets.get(notice.payload, ()):
                    ticket.set()
