"""Bundles: send Python code, read about it, read it back, delete it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import Unpack

from stillhouse import _request
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types import Bundle
from stillhouse.types.requests import ListParams

PATH = "/v1/bundles"


class BundleListParams(ListParams, total=False):
    """Arguments of `bundles.list`."""

    identity: str
    """Only those that were sent with this identity."""


def _create(document: Mapping[str, Any], key: str | None) -> Call[Bundle]:
    return _request.create(PATH, Bundle, document, key)


def _content(bundle_id: str) -> Call[dict[str, Any]]:
    return Call("GET", _request.at(PATH, bundle_id, "content"), dict)


def _list(params: Mapping[str, Any]) -> Call[Rows[Bundle]]:
    return list_call(PATH, Bundle, dict(params))


class Bundles(Resource):
    def create(self, document: Mapping[str, Any], *, idempotency_key: str | None = None) -> Bundle:
        """Send a bundle's document; the same one again is the same bundle. `stillhouse.bundling` makes documents.

        Raises:
            UnprocessableEntityError: the server takes no bundles, lacks its Python or a package, or the document breaks a rule.
        """
        return self._client.send(_create(document, idempotency_key))

    def retrieve(self, bundle_id: str) -> Bundle:
        """Raises NotFoundError."""
        return self._client.send(_request.get(_request.at(PATH, bundle_id), Bundle))

    def list(self, **params: Unpack[BundleListParams]) -> Page[Bundle]:
        """One page; iterating over it goes on through all pages after it."""
        return Page(self._client, self._client.send(_list(params)))

    def content(self, bundle_id: str) -> dict[str, Any]:
        """The document, as it was sent."""
        return self._client.send(_content(bundle_id))

    def delete(self, bundle_id: str) -> None:
        """Programs and metrics made of it cannot run any more. Raises ConflictError while an unfinished job needs it."""
        self._client.send(_request.delete(_request.at(PATH, bundle_id)))


class AsyncBundles(AsyncResource):
    async def create(self, document: Mapping[str, Any], *, idempotency_key: str | None = None) -> Bundle:
        """Send a bundle's document; see `Bundles.create`."""
        return await self._client.send(_create(document, idempotency_key))

    async def retrieve(self, bundle_id: str) -> Bundle:
        """Raises NotFoundError."""
        return await self._client.send(_request.get(_request.at(PATH, bundle_id), Bundle))

    async def list(self, **params: Unpack[BundleListParams]) -> AsyncPage[Bundle]:
        """One page; iterating over it goes on through all pages after it."""
        return AsyncPage(self._client, await self._client.send(_list(params)))

    async def content(self, bundle_id: str) -> dict[str, Any]:
        """The document, as it was sent."""
        return await self._client.send(_content(bundle_id))

    async def delete(self, bundle_id: str) -> None:
        """Programs and metrics made of it cannot run any more. Raises ConflictError while an unfinished job needs it."""
        await self._client.send(_request.delete(_request.at(PATH, bundle_id)))
