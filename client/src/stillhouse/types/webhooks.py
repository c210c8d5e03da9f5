"""Webhooks: where events go to, and what became of each."""

from __future__ import annotations

from stillhouse.types.base import Object


class WebhookEndpoint(Object):
    """`disabled_at` is when it answered 410 Gone: nothing is delivered to it any more."""

    id: str
    created_at: int
    url: str
    events: list[str]
    created_by: str | None = None
    disabled_at: int | None = None


class NewWebhookEndpoint(WebhookEndpoint):
    """`secret` (`whsec_…`) checks signatures. It is shown this once; None when the reply that had it was lost."""

    secret: str | None = None


class WebhookDelivery(Object):
    """One event on its way to one endpoint. `id` is the event's; `status` is pending, delivered or failed."""

    id: str
    created_at: int
    type: str
    status: str
    attempts: int = 0
    last_attempt_at: int | None = None
    last_status: int | None = None
    last_error: str | None = None
    next_attempt_at: int | None = None
    delivered_at: int | None = None
    body: str = ""
