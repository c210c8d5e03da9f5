"""What happened to a job: as pages, or streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from stillhouse._lines import lines, lines_async
from stillhouse._pages import AsyncPage, Page
from stillhouse._raw import many_responses
from stillhouse._request import at
from stillhouse._stream import EventCursor
from stillhouse.resources import job_calls as calls
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types import Event


class Events(Resource):
    def list(self, job_id: str, *, after: int | None = None, limit: int | None = None) -> Page[Event]:
        """Events in order of their numbers, after number `after`."""
        return Page(self._client, self._client.send(calls.part(job_id, "events", Event, after=after, limit=limit)))

    @many_responses
    def stream(self, job_id: str, *, after: int | None = None) -> Iterator[Event]:
        """Every event after number `after`, as it happens, until the job is done. A broken connection resumes without gap or repeat."""
        cursor = EventCursor(at(calls.PATH, job_id, "events"), after)
        while not cursor.done:
            try:
                with self._client.stream(cursor.call()) as response:
                    cursor.opened(response)
                    for line in lines(response.iter_text()):
                        if event := cursor.feed(line):
                            yield event
            except cursor.broken as error:
                cursor.failed(error)


class AsyncEvents(AsyncResource):
    async def list(self, job_id: str, *, after: int | None = None, limit: int | None = None) -> AsyncPage[Event]:
        """Events in order of their numbers, after number `after`."""
        return AsyncPage(self._client, await self._client.send(calls.part(job_id, "events", Event, after=after, limit=limit)))

    @many_responses
    async def stream(self, job_id: str, *, after: int | None = None) -> AsyncIterator[Event]:
        """Every event after number `after`, as it happens, until the job is done."""
        cursor = EventCursor(at(calls.PATH, job_id, "events"), after)
        while not cursor.done:
            try:
                async with self._client.stream(cursor.call()) as response:
                    cursor.opened(response)
                    async for line in lines_async(response.aiter_text()):
                        if event := cursor.feed(line):
                            yield event
            except cursor.broken as error:
                cursor.failed(error)
