"""`python -m workers.dispatcher`: turns outbox rows into hints, repeats lost ones, reaps lost leases, and has unused blobs collected and
webhooks delivered.

Any number may run side by side: rows are taken with SKIP LOCKED, and what two of them do twice is only a hint.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
import structlog
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.exc import SQLAlchemyError

from distill import ending, logs, tracing
from distill.catalog import blobs, browser_sessions, counters, idempotency, webhooks
from distill.db import Session, listen_dsn, unit_of_work
from distill.errors import StillhouseError, StorageUnavailable
from distill.jobs import checkpoints, claims, outbox, patience, pausing
from distill.jobs import workers as heard_of
from distill.jobs.outbox import Hint
from distill.queue import MAX_HINTS, check_broker, send_hint
from distill.settings import TimerSettings, get_settings
from distill.storage import open_store
from migrations.runner import check_schema
from workers.collector import Collector
from workers.webhooks import WebhookSender

log = structlog.get_logger(__name__)
T = TypeVar("T")
PAUSE_SECONDS = 2.0
NAMED_JOBS = 20
"""In one log line."""
TakeHints = Callable[[Session], list[Hint]]


class Dispatcher:
    """One loop: woken by NOTIFY or after a second, it sends what is there to send."""

    def __init__(self, timers: TimerSettings, send: Callable[[str], None] = send_hint) -> None:
        self._timers = timers
        self._send = send
        self._stopping = threading.Event()
        self._next_reap = 0.0
        self._is_checked = False

    def stop(self) -> None:
        """End the loop within a poll's time; from any thread or signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Dispatch until stopped. Lost servers are waited for, for as long as it takes. Raises StartRefused, StorageError."""
        while not self._stopping.is_set():
            try:
                with _listening() as connection:
                    self._check_once()
                    log.info("dispatcher ready")
                    self._loop(connection)
            except (psycopg.Error, SQLAlchemyError, BrokerError, OSError) as error:
                log.warning("dispatcher waits for a server", error=str(error), kind=type(error).__name__)
                self._stopping.wait(PAUSE_SECONDS)

    def _check_once(self) -> None:
        """At the start, and not when a server comes back: a newer version may have migrated meanwhile, under which this one goes on."""
        if not self._is_checked:
            with unit_of_work() as s:
                check_schema(s)
                _check_store(s)
            check_broker()
            self._is_checked = True

    def _loop(self, connection: psycopg.Connection[object]) -> None:
        while not self._stopping.is_set():
            self.round()
            for _ in connection.notifies(timeout=self._timers.dispatch_poll_seconds, stop_after=1):
                pass

    def round(self) -> int:
        """Send what is due now and, at its time, reap; returns the number of hints sent."""
        self._remind(outbox.take_due)
        self._remind(lambda s: outbox.take_overdue(s, self._timers.resend_seconds))
        sent = self._dispatch()
        if time.monotonic() >= self._next_reap:
            self._next_reap = time.monotonic() + self._timers.reap_period_seconds
            self.reap()
        return sent

    def _remind(self, take: TakeHints) -> None:
        """Put hints for items that were told of too early, or in vain, into the outbox.

        They are not sent from here: marking the items locks them, and a worker passes over a locked item and does not look again.
        """
        with unit_of_work() as s:
            for hint in take(s):
                outbox.add(s, hint.queue, many=hint.many)

    def _dispatch(self) -> int:
        """Send inside the transaction that marks: if sending fails, the rows are unmarked again."""
        with unit_of_work() as s:
            hints = outbox.take(s)
            numbers = [min(hint.many, MAX_HINTS) for hint in hints]
            for hint, number in zip(hints, numbers, strict=True):
                began = time.time_ns()
                for _ in range(number):
                    self._send(hint.queue)
                tracing.record_hint(hint.queue, sorted(hint.jobs), began)
                log.info("hints_sent", queue=hint.queue, many=number, job_ids=sorted(hint.jobs)[:NAMED_JOBS])
        return sum(numbers)

    def reap(self) -> int:
        """End every lapsed lease, pause the jobs whose deadline has passed, fail those that have waited for a connection for too long, and
        forget what is old; returns how many leases it ended."""
        reaped = 0
        for _ in self._each(claims.reap):
            reaped += 1
        for job in self._each(pausing.stop_late):
            log.info("deadline passed", job_id=job)
        with unit_of_work() as s:
            patience.note(s)
        for job in self._each(patience.give_up):
            log.warning("job waited in vain for a connection", job_id=job)
        with unit_of_work() as s:
            claims.sweep(s)
            outbox.prune(s)
            heard_of.prune(s)
            browser_sessions.prune(s)
            idempotency.prune(s)
            webhooks.prune(s)
            checkpoints.prune(s, self._timers.failed_checkpoints_seconds)
            counters.fold(s)
        return reaped

    def _each(self, act: Callable[[Session], T | None]) -> Iterator[T]:
        """Act until there is nothing left to act on, in a transaction each time; what each time was done to."""
        while not self._stopping.is_set():
            with unit_of_work() as s:
                done = act(s)
            if done is None:
                return
            yield done


def _check_store(s: Session) -> None:
    """Raises StorageError for another database's blobs. One that is away now is no reason: hints and leases do not need it."""
    try:
        blobs.check_store(s, open_store(get_settings()))
    except StorageUnavailable as error:
        log.warning("the blob store does not answer yet", error=error.message)


@contextmanager
def _listening() -> Iterator[psycopg.Connection[object]]:
    with psycopg.connect(listen_dsn(), autocommit=True, connect_timeout=5, application_name="stillhouse-dispatcher") as connection:
        connection.execute(f"LISTEN {outbox.CHANNEL}")
        yield connection


def main() -> None:
    logs.configure("dispatcher")
    tracing.configure("dispatcher")
    dispatcher = Dispatcher(get_settings().timers)
    ending.when_told(dispatcher.stop)
    Collector(open_store(get_settings()), get_settings().timers).start()
    WebhookSender(get_settings()).start()
    try:
        dispatcher.run()
    except StillhouseError as error:
        log.error("dispatcher cannot start", error=error.message)
        ending.end(1)
    log.info("dispatcher stopped")
    tracing.stop()
    ending.end()


if __name__ == "__main__":
    main()
