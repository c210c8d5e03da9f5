"""Following a job: the long poll and the event stream. Async code here holds no database session between looks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from app.schemas.compile_jobs import EventRead
from app.services import Services
from app.stream_limit import StreamLimit
from app.views.compile_jobs import event_read
from distill.catalog import browser_sessions
from distill.catalog.keys import Caller
from distill.db import is_outage, unit_of_work
from distill.jobs import events, repository
from distill.jobs.status import JobStatus

HEARTBEAT_SECONDS = 15
#: A stream ends after this long; clients resume with Last-Event-ID.
LONGEST_STREAM_SECONDS = 600.0
#: It looks at least this often, for news whose notice was lost and for whether its key still holds.
LOOK_SECONDS = 30.0
_BATCH = 500


def position(project_id: str, job_id: str) -> tuple[int, bool]:
    """The number of a job's last event, and whether the job is final. Raises NotFound."""
    with unit_of_work("api") as session:
        job = repository.get(session, project_id, job_id)
        return job.event_seq, JobStatus(job.status).is_terminal


async def wait_for_change(services: Services, project_id: str, job_id: str, seconds: float) -> None:
    """Return when the job has a new event, is final, or `seconds` have passed. Raises NotFound."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    ticket = services.notices.ticket(job_id)
    try:
        before, final = await run_in_threadpool(position, project_id, job_id)
        now = before
        while not final and now == before and (left := deadline - loop.time()) > 0:
            await services.notices.wait(ticket, left)
            now, final = await run_in_threadpool(position, project_id, job_id)
    finally:
        services.notices.done(job_id, ticket)


@dataclass(frozen=True)
class Follower:
    """Who follows which job, of which project."""

    job_id: str
    project_id: str
    caller: Caller


def _read(follower: Follower, after: int) -> tuple[list[EventRead], bool]:
    """The next events, and whether there can be more: a job turns final in the transaction that writes its `done`.

    Nothing, and nothing to come, for a key or a session that has ended since the stream began: who connects again is told why.
    """
    job_id = follower.job_id
    with unit_of_work("api") as session:
        if not browser_sessions.still_in(session, follower.caller):
            return [], False
        final = JobStatus(repository.by_id(session, job_id).status).is_terminal
        whole = follower.project_id == follower.caller.project_id
        found = [event_read(event, whole) for event in events.after(session, job_id, after, _BATCH)]
    return found, not final or len(found) == _BATCH


async def _read_when_it_answers(follower: Follower, after: int) -> tuple[list[EventRead], bool]:
    """A stream that has begun cannot say 503: while the database is away it has no news."""
    try:
        return await run_in_threadpool(_read, follower, after)
    except Exception as error:
        if not is_outage(error):
            raise
        return [], True


async def _stream(services: Services, follower: Follower, after: int) -> AsyncIterator[ServerSentEvent]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LONGEST_STREAM_SECONDS
    ticket = services.notices.ticket(follower.job_id)
    try:
        while (left := deadline - loop.time()) > 0:
            batch, more = await _read_when_it_answers(follower, after)
            for event in batch:
                # In ASCII: many clients take U+2028 and its like for the end of a line.
                data = json.dumps(event.model_dump(mode="json"))
                yield ServerSentEvent(id=str(event.id), event=event.type, data=data)
                after = event.id
            if not more:
                return
            if len(batch) < _BATCH:
                await services.notices.wait(ticket, min(left, LOOK_SECONDS))
    finally:
        services.notices.done(follower.job_id, ticket)


class _CountedStream(EventSourceResponse):
    """Counts from its start to its end, however that comes."""

    def __init__(self, limit: StreamLimit, project_id: str, events: AsyncIterator[ServerSentEvent], **options: Any) -> None:
        super().__init__(events, **options)
        self._limit, self._project_id = limit, project_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._limit.counted(self._project_id):
            await super().__call__(scope, receive, send)


def event_stream(services: Services, follower: Follower, after: int) -> EventSourceResponse:
    """Every event after number `after`, as it happens, until the job is done; a comment every 15 s keeps the connection.

    Sending it raises LimitExceeded, before a byte, where the caller's project has too many."""
    return _CountedStream(
        services.streams,
        follower.caller.project_id,
        _stream(services, follower, after),
        ping=HEARTBEAT_SECONDS,
        ping_message_factory=lambda: ServerSentEvent(comment="still here"),
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )
