"""Worker processes and queues of the server. For operators."""

from __future__ import annotations

from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types.workers import QueueState, Worker

_WORKERS = "/v1/workers"
_QUEUES = "/v1/queues"


def _workers() -> Call[Rows[Worker]]:
    return list_call(_WORKERS, Worker, {})


def _queues() -> Call[Rows[QueueState]]:
    return list_call(_QUEUES, QueueState, {})


class Workers(Resource):
    def list(self) -> Page[Worker]:
        """The oldest first; those that fell silent within the last hour are not `alive`."""
        return Page(self._client, self._client.send(_workers()))


class AsyncWorkers(AsyncResource):
    async def list(self) -> AsyncPage[Worker]:
        """The oldest first; those that fell silent within the last hour are not `alive`."""
        return AsyncPage(self._client, await self._client.send(_workers()))


class Queues(Resource):
    def list(self) -> Page[QueueState]:
        """What waits and what runs, over all projects."""
        return Page(self._client, self._client.send(_queues()))


class AsyncQueues(AsyncResource):
    async def list(self) -> AsyncPage[QueueState]:
        """What waits and what runs, over all projects."""
        return AsyncPage(self._client, await self._client.send(_queues()))
