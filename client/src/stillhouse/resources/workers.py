"""Worker processes, queues and maintenance of the server. For operators."""

from __future__ import annotations

from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call, get, given
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types.workers import MaintenanceState, QueueState, Worker

_WORKERS = "/v1/workers"
_QUEUES = "/v1/queues"
_MAINTENANCE = "/v1/maintenance"


def _workers() -> Call[Rows[Worker]]:
    return list_call(_WORKERS, Worker, {})


def _queues() -> Call[Rows[QueueState]]:
    return list_call(_QUEUES, QueueState, {})


def _begin(reason: str | None) -> Call[MaintenanceState]:
    return Call("PUT", _MAINTENANCE, MaintenanceState.model_validate, json=given({"reason": reason}))


def _end() -> Call[MaintenanceState]:
    return Call("DELETE", _MAINTENANCE, MaintenanceState.model_validate)


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


class Maintenance(Resource):
    def retrieve(self) -> MaintenanceState:
        """Whether the server is drained, and how many work items are still held."""
        return self._client.send(get(_MAINTENANCE, MaintenanceState))

    def begin(self, reason: str | None = None) -> MaintenanceState:
        """Drain the server: it refuses new jobs, and running work is finished or given back."""
        return self._client.send(_begin(reason))

    def end(self) -> MaintenanceState:
        """Take jobs again; those that waited go on."""
        return self._client.send(_end())


class AsyncMaintenance(AsyncResource):
    async def retrieve(self) -> MaintenanceState:
        """Whether the server is drained, and how many work items are still held."""
        return await self._client.send(get(_MAINTENANCE, MaintenanceState))

    async def begin(self, reason: str | None = None) -> MaintenanceState:
        """Drain the server: it refuses new jobs, and running work is finished or given back."""
        return await self._client.send(_begin(reason))

    async def end(self) -> MaintenanceState:
        """Take jobs again; those that waited go on."""
        return await self._client.send(_end())
