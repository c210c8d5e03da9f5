"""What one API process holds for all its requests, opened at start and closed at stop."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Annotated, cast

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from app.rate import of_connection_tests
from app.readiness import StoreCheck
from app.stream_limit import StreamLimit
from distill.catalog import connections, projects
from distill.db import unit_of_work
from distill.jobs import bundle_use
from distill.jobs.call_counters import CallCounters
from distill.jobs.notices import Notices
from distill.relay import Relay, RelayLimits, connections_for
from distill.rollouts import ProgramHost, RunnerPool
from distill.sandbox import choose_for
from distill.settings import Settings
from distill.storage import open_store

_SHARE_OF_FILES = 8
"""Part of the files that this process may open: callers of the API need most."""


class Services:
    """The blob store, job notices, the relay that the gateway uses, and the program host.

    The program host starts with the first program that is rendered or called: an API that serves none starts no process.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = open_store(settings)
        self.store_check = StoreCheck(self.store)
        self.notices = Notices()
        self.streams = StreamLimit(settings.limits.event_streams)
        self.connection_tests = of_connection_tests(settings)
        self.relay = Relay(RelayLimits.of(settings.timers, settings.limits, connections_for(_SHARE_OF_FILES)), settings.egress.hosts)
        self._calls = CallCounters(self.relay.calls, "api")
        self._pool: RunnerPool | None = None
        self._host: ProgramHost | None = None
        self._lock = threading.Lock()

    @property
    def program_host(self) -> ProgramHost:
        """Warm runners whose LM calls go through `relay`. Thread-safe."""
        with self._lock:
            if self._host is None:
                sandbox = choose_for(self.settings)
                self._pool = RunnerPool(
                    self.relay.start(),
                    self.settings.pythons,
                    sandbox=sandbox,
                    references=self.settings.references,
                    bundles=bundle_use.source(self.store, accept=self.settings.bundles.accept),
                )
                self._host = ProgramHost(self._pool)
            return self._host

    async def __aenter__(self) -> Services:
        await run_in_threadpool(self._sync)
        self.notices.start()
        self._calls.start()
        return self

    def _sync(self) -> None:
        with unit_of_work("api") as session:
            connections.sync(session, self.settings)
            projects.sync(session, self.settings)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.notices.stop()
        await self.relay.close_here()
        if self._pool is not None:
            self._pool.close()
        self.relay.stop()
        await run_in_threadpool(self._calls.stop)


def _services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


ServicesDep = Annotated[Services, Depends(_services)]
