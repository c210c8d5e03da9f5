"""Work items of jobs whose rollouts are made here: claim, beat, release, publish; and the traces and scores that are sent in."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stillhouse import _request
from stillhouse._plain import plain_json
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types.work_items import Beat, Claimed, Stored, WorkItem, WorkItemEnded

if TYPE_CHECKING:
    from stillhouse._client import AsyncStillhouse, Stillhouse

PATH = "/v1/work_items"
MOST_AT_ONCE = 500
Facts = Sequence[Mapping[str, Any]]


def _claim(client: str, job: str | None, width: int) -> Call[Claimed]:
    return _request.post(f"{PATH}/claim", Claimed, _request.given({"client": client, "job": job, "width": width}))


def _held(verb: str, item: WorkItem, **more: Any) -> Call[WorkItemEnded]:
    return _request.post(f"{PATH}/{verb}", WorkItemEnded, plain_json({"id": item.id, "fence": item.fence, **more}))


def _released(item: WorkItem, error: Mapping[str, str] | None) -> Call[WorkItemEnded]:
    return _held("release", item) if error is None else _held("release", item, error=dict(error))


def _beat(item: WorkItem, done: int | None) -> Call[Beat]:
    return _request.post(f"{PATH}/beat", Beat, _request.given({"id": item.id, "fence": item.fence, "done": done}))


def send_calls(job_id: str, part: str, facts: Facts, **more: Any) -> Iterator[Call[Stored]]:
    """The requests that send traces or scores in, at most 500 each."""
    for start in range(0, len(facts), MOST_AT_ONCE):
        body = {part: list(facts[start : start + MOST_AT_ONCE]), **more}
        yield _request.post(_request.at("/v1/compile_jobs", job_id, part), Stored, plain_json(body))


def sum_of(replies: Sequence[Stored]) -> Stored:
    sums = {name: sum(getattr(each, name) for each in replies) for name in ("received", "new", "skipped")}
    return Stored(**sums)


class WorkItems(Resource):
    """`client` is the name that this process claims under."""

    def __init__(self, client: Stillhouse) -> None:
        super().__init__(client)
        self._name = uuid.uuid4().hex

    def claim(self, *, job: str | None = None, width: int = 8) -> WorkItem | None:
        """Take the next slice of a job (or of any of the project's) whose rollouts are made by a client; None when there is none now."""
        return self._client.send(_claim(self._name, job, width)).item

    def beat(self, item: WorkItem, *, done: int | None = None) -> Beat:
        """Renew the lease. Raises ConflictError (`lost_lease`) when somebody else may hold the item."""
        return self._client.send(_beat(item, done))

    def release(self, item: WorkItem, *, error: Mapping[str, str] | None = None) -> WorkItemEnded:
        """Give an item back unfinished; what was sent of it stays. With `error`, `{code, message}`, an attempt is spent, and with the last
        one the job fails with it."""
        return self._client.send(_released(item, error))

    def publish(self, item: WorkItem, *, undecided: Facts = ()) -> WorkItemEnded:
        """End an item whose traces and scores were sent; `undecided` are `{row, code, message}` of examples that could not be run.

        Raises:
            ConflictError: `lost_lease`, or `work_item_incomplete` with the rows that lack something.
        """
        return self._client.send(_held("publish", item, undecided=list(undecided)))


class AsyncWorkItems(AsyncResource):
    """`WorkItems` for asyncio."""

    def __init__(self, client: AsyncStillhouse) -> None:
        super().__init__(client)
        self._name = uuid.uuid4().hex

    async def claim(self, *, job: str | None = None, width: int = 8) -> WorkItem | None:
        """Take the next slice; see `WorkItems.claim`."""
        return (await self._client.send(_claim(self._name, job, width))).item

    async def beat(self, item: WorkItem, *, done: int | None = None) -> Beat:
        """Renew the lease; see `WorkItems.beat`."""
        return await self._client.send(_beat(item, done))

    async def release(self, item: WorkItem, *, error: Mapping[str, str] | None = None) -> WorkItemEnded:
        """Give an item back unfinished; see `WorkItems.release`."""
        return await self._client.send(_released(item, error))

    async def publish(self, item: WorkItem, *, undecided: Facts = ()) -> WorkItemEnded:
        """End an item; see `WorkItems.publish`."""
        return await self._client.send(_held("publish", item, undecided=list(undecided)))
