"""Programs: create, read, list, delete, render."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import TypedDict, Unpack

from stillhouse import _request
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types import Program, Render
from stillhouse.types.requests import TaggedListParams

PATH = "/v1/programs"


class ReferenceParams(TypedDict, total=False):
    """A program that is code of a package which is installed and allowed on the server, in place of a spec."""

    reference: str
    """`package.module:name` of a class or function that makes the program."""
    kwargs: Mapping[str, Any]
    """Keyword arguments that it is called with."""
    lms: Mapping[str, str]
    """LM role of each predictor; `student` where none is given."""
    inputs: Sequence[str | Mapping[str, Any]]
    """Names of the inputs; the parameters of `forward` if left out."""


def _create(
    spec: Mapping[str, Any] | None, code: ReferenceParams, name: str | None, metadata: Mapping[str, str] | None, key: str | None
) -> Call[Program]:
    return _request.create(PATH, Program, _request.given({"spec": spec, **code, "name": name, "metadata": metadata}), key)


def _render(program_id: str, inputs: Mapping[str, Any]) -> Call[Render]:
    return _request.post(_request.at(PATH, program_id, "render"), Render, {"inputs": inputs})


def _list(params: Mapping[str, Any]) -> Call[Rows[Program]]:
    return list_call(PATH, Program, dict(params))


class Programs(Resource):
    def create(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        **code: Unpack[ReferenceParams],
    ) -> Program:
        """Store a program: a spec, or `reference=` to code. Raises UnprocessableEntityError with the JSON path of what is wrong."""
        return self._client.send(_create(spec, code, name, metadata, idempotency_key))

    def retrieve(self, program_id: str) -> Program:
        """Raises NotFoundError."""
        return self._client.send(_request.get(_request.at(PATH, program_id), Program))

    def list(self, **params: Unpack[TaggedListParams]) -> Page[Program]:
        """One page; iterating over it goes on through all pages after it."""
        return Page(self._client, self._client.send(_list(params)))

    def delete(self, program_id: str) -> None:
        """Raises NotFoundError."""
        self._client.send(_request.delete(_request.at(PATH, program_id)))

    def render(self, program_id: str, inputs: Mapping[str, Any]) -> Render:
        """The messages each predictor would send for these inputs; no LM is called."""
        return self._client.send(_render(program_id, inputs))


class AsyncPrograms(AsyncResource):
    async def create(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        **code: Unpack[ReferenceParams],
    ) -> Program:
        """Store a program: a spec, or `reference=` to code. Raises UnprocessableEntityError with the JSON path of what is wrong."""
        return await self._client.send(_create(spec, code, name, metadata, idempotency_key))

    async def retrieve(self, program_id: str) -> Program:
        """Raises NotFoundError."""
        return await self._client.send(_request.get(_request.at(PATH, program_id), Program))

    async def list(self, **params: Unpack[TaggedListParams]) -> AsyncPage[Program]:
        """One page; iterating over it goes on through all pages after it."""
        return AsyncPage(self._client, await self._client.send(_list(params)))

    async def delete(self, program_id: str) -> None:
        """Raises NotFoundError."""
        await self._client.send(_request.delete(_request.at(PATH, program_id)))

    async def render(self, program_id: str, inputs: Mapping[str, Any]) -> Render:
        """The messages each predictor would send for these inputs; no LM is called."""
        return await self._client.send(_render(program_id, inputs))
