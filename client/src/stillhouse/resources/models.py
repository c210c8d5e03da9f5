"""Models that the gateway serves."""

from __future__ import annotations

from stillhouse import _request
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types import Model

PATH = "/v1/models"


def _list() -> Call[Rows[Model]]:
    return list_call(PATH, Model, {})


def _retrieve(model_id: str) -> Call[Model]:
    return _request.get(_request.at(PATH, model_id), Model)


class Models(Resource):
    def list(self) -> Page[Model]:
        """Those that a call may name now."""
        return Page(self._client, self._client.send(_list()))

    def retrieve(self, model_id: str) -> Model:
        """Raises NotFoundError."""
        return self._client.send(_retrieve(model_id))

    def delete(self, model_id: str) -> None:
        """Have it unloaded and forgotten. Raises ConflictError while a job or an alias needs it."""
        self._client.send(_request.delete(_request.at(PATH, model_id)))


class AsyncModels(AsyncResource):
    async def list(self) -> AsyncPage[Model]:
        """Those that a call may name now."""
        return AsyncPage(self._client, await self._client.send(_list()))

    async def retrieve(self, model_id: str) -> Model:
        """Raises NotFoundError."""
        return await self._client.send(_retrieve(model_id))

    async def delete(self, model_id: str) -> None:
        """Have it unloaded and forgotten. Raises ConflictError while a job or an alias needs it."""
        await self._client.send(_request.delete(_request.at(PATH, model_id)))
