"""Connections: which LM host answers for which LM."""

from __future__ import annotations

from stillhouse import _request
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types import Connection, ResolvedLM

PATH = "/v1/connections"


def _list() -> Call[Rows[Connection]]:
    return list_call(PATH, Connection, {})


def _resolve(lm: str) -> Call[ResolvedLM]:
    return _request.get(f"{PATH}/resolve", ResolvedLM, lm=lm)


class Connections(Resource):
    def list(self) -> Page[Connection]:
        return Page(self._client, self._client.send(_list()))

    def resolve(self, lm: str) -> ResolvedLM:
        """The connection and model that a job would name for an LM of a program, by the LM's name (`openai/gpt-4.1-mini`).

        Raises:
            NotFoundError: no connection stands for it.
            UnprocessableEntityError: two do equally (`ambiguous_lm`), or the one that does leaves the model open (`unknown_model`).
        """
        return self._client.send(_resolve(lm))


class AsyncConnections(AsyncResource):
    async def list(self) -> AsyncPage[Connection]:
        return AsyncPage(self._client, await self._client.send(_list()))

    async def resolve(self, lm: str) -> ResolvedLM:
        """The connection and model that a job would name for an LM of a program; see `Connections.resolve`."""
        return await self._client.send(_resolve(lm))
