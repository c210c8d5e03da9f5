"""API keys of the project. All of it needs the scope `admin`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import TypedDict, Unpack

from stillhouse import _request
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types.account import ApiKey, NewApiKey, RevokedKey
from stillhouse.types.requests import ListParams

PATH = "/v1/api_keys"


class KeyParams(TypedDict, total=False):
    """`label` says who or what uses it. `expires_at` in Unix seconds. With `replaces` that key ends after `overlap_seconds`, a day unless
    given, and label and scopes are its own unless given. `project` is for operators, who make
    the first key of another one."""

    label: str
    scopes: Sequence[str]
    project: str
    expires_at: int
    replaces: str
    overlap_seconds: int


def _create(body: Mapping[str, Any], idempotency_key: str | None) -> Call[NewApiKey]:
    return _request.create(PATH, NewApiKey, _request.given(body), idempotency_key)


def _retrieve(key_id: str) -> Call[ApiKey]:
    return _request.get(_request.at(PATH, key_id), ApiKey)


def _list(params: Mapping[str, Any]) -> Call[Rows[ApiKey]]:
    return list_call(PATH, ApiKey, dict(params))


def _delete(key_id: str, cancel_jobs: bool) -> Call[RevokedKey]:
    return Call("DELETE", _request.at(PATH, key_id), RevokedKey.model_validate, params={"cancel_jobs": "true"} if cancel_jobs else {})


class ApiKeys(Resource):
    def create(self, *, idempotency_key: str | None = None, **body: Unpack[KeyParams]) -> NewApiKey:
        """A new key; its `token` is shown this once."""
        return self._client.send(_create(body, idempotency_key))

    def retrieve(self, key_id: str) -> ApiKey:
        """Raises NotFoundError."""
        return self._client.send(_retrieve(key_id))

    def list(self, **params: Unpack[ListParams]) -> Page[ApiKey]:
        """Also those that have expired or were revoked."""
        return Page(self._client, self._client.send(_list(params)))

    def delete(self, key_id: str, *, cancel_jobs: bool = False) -> RevokedKey:
        """Revoke a key: from the next request on it is refused. With `cancel_jobs` the jobs that it made are cancelled."""
        return self._client.send(_delete(key_id, cancel_jobs))


class AsyncApiKeys(AsyncResource):
    async def create(self, *, idempotency_key: str | None = None, **body: Unpack[KeyParams]) -> NewApiKey:
        """A new key; its `token` is shown this once."""
        return await self._client.send(_create(body, idempotency_key))

    async def retrieve(self, key_id: str) -> ApiKey:
        """Raises NotFoundError."""
        return await self._client.send(_retrieve(key_id))

    async def list(self, **params: Unpack[ListParams]) -> AsyncPage[ApiKey]:
        """Also those that have expired or were revoked."""
        return AsyncPage(self._client, await self._client.send(_list(params)))

    async def delete(self, key_id: str, *, cancel_jobs: bool = False) -> RevokedKey:
        """Revoke a key: from the next request on it is refused. With `cancel_jobs` the jobs that it made are cancelled."""
        return await self._client.send(_delete(key_id, cancel_jobs))
