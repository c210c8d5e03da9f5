"""Webhook endpoints of the project. All of it needs the scope `admin`.

Who receives events checks them with `standardwebhooks` or `openai.webhooks.unwrap`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import Unpack

from stillhouse import _request
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types.requests import ListParams
from stillhouse.types.webhooks import NewWebhookEndpoint, WebhookDelivery, WebhookEndpoint

PATH = "/v1/webhook_endpoints"


def _create(url: str, events: Sequence[str], idempotency_key: str | None) -> Call[NewWebhookEndpoint]:
    return _request.create(PATH, NewWebhookEndpoint, {"url": url, "events": list(events)}, idempotency_key)


def _retrieve(endpoint_id: str) -> Call[WebhookEndpoint]:
    return _request.get(_request.at(PATH, endpoint_id), WebhookEndpoint)


def _list(params: Mapping[str, Any]) -> Call[Rows[WebhookEndpoint]]:
    return list_call(PATH, WebhookEndpoint, dict(params))


def _deliveries(endpoint_id: str, params: Mapping[str, Any]) -> Call[Rows[WebhookDelivery]]:
    return list_call(_request.at(PATH, endpoint_id, "deliveries"), WebhookDelivery, dict(params))


def _redeliver(endpoint_id: str, delivery_id: str) -> Call[WebhookDelivery]:
    return Call("POST", _request.at(PATH, endpoint_id, "deliveries", delivery_id, "redeliver"), WebhookDelivery.model_validate)


class WebhookEndpoints(Resource):
    def create(self, url: str, events: Sequence[str], *, idempotency_key: str | None = None) -> NewWebhookEndpoint:
        """Have events of these types delivered to `url`; the endpoint's `secret` is shown this once."""
        return self._client.send(_create(url, events, idempotency_key))

    def retrieve(self, endpoint_id: str) -> WebhookEndpoint:
        """Raises NotFoundError."""
        return self._client.send(_retrieve(endpoint_id))

    def list(self, **params: Unpack[ListParams]) -> Page[WebhookEndpoint]:
        """One page; iterating over it goes on through all pages after it."""
        return Page(self._client, self._client.send(_list(params)))

    def delete(self, endpoint_id: str) -> None:
        """Its deliveries go with it."""
        self._client.send(_request.delete(_request.at(PATH, endpoint_id)))

    def deliveries(self, endpoint_id: str, **params: Unpack[ListParams]) -> Page[WebhookDelivery]:
        """What was sent to it, and what came of it, newest first."""
        return Page(self._client, self._client.send(_deliveries(endpoint_id, params)))

    def redeliver(self, endpoint_id: str, delivery_id: str) -> WebhookDelivery:
        """Send an event again, with the same id and body."""
        return self._client.send(_redeliver(endpoint_id, delivery_id))


class AsyncWebhookEndpoints(AsyncResource):
    async def create(self, url: str, events: Sequence[str], *, idempotency_key: str | None = None) -> NewWebhookEndpoint:
        """Have events of these types delivered to `url`; the endpoint's `secret` is shown this once."""
        return await self._client.send(_create(url, events, idempotency_key))

    async def retrieve(self, endpoint_id: str) -> WebhookEndpoint:
        """Raises NotFoundError."""
        return await self._client.send(_retrieve(endpoint_id))

    async def list(self, **params: Unpack[ListParams]) -> AsyncPage[WebhookEndpoint]:
        """One page; iterating over it goes on through all pages after it."""
        return AsyncPage(self._client, await self._client.send(_list(params)))

    async def delete(self, endpoint_id: str) -> None:
        """Its deliveries go with it."""
        await self._client.send(_request.delete(_request.at(PATH, endpoint_id)))

    async def deliveries(self, endpoint_id: str, **params: Unpack[ListParams]) -> AsyncPage[WebhookDelivery]:
        """What was sent to it, and what came of it, newest first."""
        return AsyncPage(self._client, await self._client.send(_deliveries(endpoint_id, params)))

    async def redeliver(self, endpoint_id: str, delivery_id: str) -> WebhookDelivery:
        """Send an event again, with the same id and body."""
        return await self._client.send(_redeliver(endpoint_id, delivery_id))
