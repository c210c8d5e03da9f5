"""Connections: LM hosts that jobs name. The operator's are for every project; a key with the scope `admin` makes the project's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from typing_extensions import TypedDict, Unpack

from stillhouse import _request
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types import Connection, ConnectionTest, ResolvedLM

PATH = "/v1/connections"


class ConnectionParams(TypedDict, total=False):
    """`prices` are `{model: {"input": …, "output": …, "cached_input": …}}` in US dollars per million tokens, `*` being any other model.
    `match` are the names of LMs in programs that it stands for."""

    models: Sequence[str] | Literal["*"]
    match: Sequence[str]
    supports: Sequence[Literal["structured_outputs", "tools", "reasoning"]]
    prices: Mapping[str, Mapping[str, float]]
    max_in_flight: int
    default_teacher: bool
    api_key: str | None


class ConnectionChanges(ConnectionParams, total=False):
    base_url: str


def _create(name: str, base_url: str, more: Mapping[str, Any], idempotency_key: str | None) -> Call[Connection]:
    return _request.create(PATH, Connection, {"name": name, "base_url": base_url, **more}, idempotency_key)


def _retrieve(connection_id: str) -> Call[Connection]:
    return _request.get(_request.at(PATH, connection_id), Connection)


def _list() -> Call[Rows[Connection]]:
    return list_call(PATH, Connection, {})


def _resolve(lm: str) -> Call[ResolvedLM]:
    return _request.get(f"{PATH}/resolve", ResolvedLM, lm=lm)


def _update(connection_id: str, changes: Mapping[str, Any]) -> Call[Connection]:
    return Call("PATCH", _request.at(PATH, connection_id), Connection.model_validate, json=dict(changes))


def _test(connection_id: str, model: str | None, idempotency_key: str | None) -> Call[ConnectionTest]:
    return _request.create(_request.at(PATH, connection_id, "test"), ConnectionTest, _request.given({"model": model}), idempotency_key)


class Connections(Resource):
    def create(self, name: str, base_url: str, *, idempotency_key: str | None = None, **more: Unpack[ConnectionParams]) -> Connection:
        """An LM host of the project's own, for teachers. The key is sealed, and no reply has it."""
        return self._client.send(_create(name, base_url, more, idempotency_key))

    def retrieve(self, connection_id: str) -> Connection:
        """Raises NotFoundError."""
        return self._client.send(_retrieve(connection_id))

    def list(self) -> Page[Connection]:
        """The operator's, and the project's own."""
        return Page(self._client, self._client.send(_list()))

    def resolve(self, lm: str) -> ResolvedLM:
        """The connection and model that a job would name for an LM of a program, by the LM's name (`openai/gpt-4.1-mini`).

        Raises:
            NotFoundError: no connection stands for it.
            UnprocessableEntityError: two do equally (`ambiguous_lm`), or the one that does leaves the model open (`unknown_model`).
        """
        return self._client.send(_resolve(lm))

    def update(self, connection_id: str, **changes: Unpack[ConnectionChanges]) -> Connection:
        """What is not given stays; `api_key=None` takes the key away. With another `base_url` the key is given again."""
        return self._client.send(_update(connection_id, changes))

    def delete(self, connection_id: str) -> None:
        """Raises ConflictError while a job that is not over uses it, or it is the default teacher."""
        self._client.send(_request.delete(_request.at(PATH, connection_id)))

    def test(self, connection_id: str, *, model: str | None = None, idempotency_key: str | None = None) -> ConnectionTest:
        """One tiny call, which the host may charge for."""
        return self._client.send(_test(connection_id, model, idempotency_key))


class AsyncConnections(AsyncResource):
    async def create(self, name: str, base_url: str, *, idempotency_key: str | None = None, **more: Unpack[ConnectionParams]) -> Connection:
        """An LM host of the project's own, for teachers. The key is sealed, and no reply has it."""
        return await self._client.send(_create(name, base_url, more, idempotency_key))

    async def retrieve(self, connection_id: str) -> Connection:
        """Raises NotFoundError."""
        return await self._client.send(_retrieve(connection_id))

    async def list(self) -> AsyncPage[Connection]:
        """The operator's, and the project's own."""
        return AsyncPage(self._client, await self._client.send(_list()))

    async def resolve(self, lm: str) -> ResolvedLM:
        """The connection and model that a job would name for an LM of a program; see `Connections.resolve`."""
        return await self._client.send(_resolve(lm))

    async def update(self, connection_id: str, **changes: Unpack[ConnectionChanges]) -> Connection:
        """What is not given stays; `api_key=None` takes the key away. With another `base_url` the key is given again."""
        return await self._client.send(_update(connection_id, changes))

    async def delete(self, connection_id: str) -> None:
        """Raises ConflictError while a job that is not over uses it, or it is the default teacher."""
        await self._client.send(_request.delete(_request.at(PATH, connection_id)))

    async def test(self, connection_id: str, *, model: str | None = None, idempotency_key: str | None = None) -> ConnectionTest:
        """One tiny call, which the host may charge for."""
        return await self._client.send(_test(connection_id, model, idempotency_key))
