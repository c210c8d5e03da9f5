"""Aliases: `program_name@alias`, the name that stays while artifacts change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import Unpack

from stillhouse import _request
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types import Alias, AliasMove
from stillhouse.types.requests import ListParams

PATH = "/v1/aliases"


def _retrieve(name: str) -> Call[Alias]:
    return _request.get(_request.at(PATH, name), Alias)


def _list(program: str | None, params: Mapping[str, Any]) -> Call[Rows[Alias]]:
    return list_call(PATH, Alias, {**params, "program": program})


def _move(name: str, artifact: str, against: str | None, min_delta: float) -> Call[Alias]:
    gate = {} if against is None else {"against": against, "min_delta": min_delta}
    return Call("PUT", _request.at(PATH, name), Alias.model_validate, json={"artifact": artifact, **gate})


def _history(name: str, params: Mapping[str, Any]) -> Call[Rows[AliasMove]]:
    return list_call(_request.at(PATH, name, "history"), AliasMove, dict(params))


class Aliases(Resource):
    def retrieve(self, name: str) -> Alias:
        """Raises NotFoundError."""
        return self._client.send(_retrieve(name))

    def list(self, *, program: str | None = None, **params: Unpack[ListParams]) -> Page[Alias]:
        """One page; iterating over it goes on through all pages after it."""
        return Page(self._client, self._client.send(_list(program, params)))

    def move(self, name: str, artifact: str, *, against: str | None = None, min_delta: float = 0.0) -> Alias:
        """Point `name` at an artifact (`art-…`, or another alias of the program). Needs the scope `aliases:write`.

        With `against` (an alias) only if the artifact is better than what that names: the whole 95 % interval of the difference, as its
        job measured it, lies above `min_delta`. Where `against` names nothing yet, there is nothing to beat.

        Raises:
            ConflictError: `code` is `worse`, `inconclusive` or `not_compared`; nothing was moved.
        """
        return self._client.send(_move(name, artifact, against, min_delta))

    def delete(self, name: str) -> None:
        """Take the alias away; its artifact and its history stay."""
        self._client.send(_request.delete(_request.at(PATH, name)))

    def history(self, name: str, **params: Unpack[ListParams]) -> Page[AliasMove]:
        """Where it has pointed and who moved it, newest first."""
        return Page(self._client, self._client.send(_history(name, params)))


class AsyncAliases(AsyncResource):
    async def retrieve(self, name: str) -> Alias:
        """Raises NotFoundError."""
        return await self._client.send(_retrieve(name))

    async def list(self, *, program: str | None = None, **params: Unpack[ListParams]) -> AsyncPage[Alias]:
        """One page; iterating over it goes on through all pages after it."""
        return AsyncPage(self._client, await self._client.send(_list(program, params)))

    async def move(self, name: str, artifact: str, *, against: str | None = None, min_delta: float = 0.0) -> Alias:
        """Point `name` at an artifact; see `Aliases.move`."""
        return await self._client.send(_move(name, artifact, against, min_delta))

    async def delete(self, name: str) -> None:
        """Take the alias away; its artifact and its history stay."""
        await self._client.send(_request.delete(_request.at(PATH, name)))

    async def history(self, name: str, **params: Unpack[ListParams]) -> AsyncPage[AliasMove]:
        """Where it has pointed and who moved it, newest first."""
        return AsyncPage(self._client, await self._client.send(_history(name, params)))
