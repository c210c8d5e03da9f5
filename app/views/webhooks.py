"""Webhook endpoints and deliveries as their readers see them."""

from __future__ import annotations

from app.schemas.webhooks import WebhookDeliveryRead, WebhookEndpointMade, WebhookEndpointRead
from app.views.convert import seconds
from distill.catalog.webhook_rows import WebhookDelivery, WebhookEndpoint


def endpoint_read(row: WebhookEndpoint) -> WebhookEndpointRead:
    return WebhookEndpointRead(
        id=row.id,
        created_at=seconds(row.created_at),
        created_by=row.created_by,
        url=row.url,
        events=row.events,
        disabled_at=seconds(row.disabled_at),
    )


def endpoint_made(row: WebhookEndpoint, secret: str | None) -> WebhookEndpointMade:
    return WebhookEndpointMade(**endpoint_read(row).model_dump(), secret=secret)


def delivery_read(row: WebhookDelivery) -> WebhookDeliveryRead:
    return WebhookDeliveryRead(
        id=row.id,
        created_at=seconds(row.created_at),
        type=row.type,
        status=row.status,
        attempts=row.attempts,
        last_attempt_at=seconds(row.last_attempt_at),
        last_status=row.last_status,
        last_error=row.last_error,
        next_attempt_at=seconds(row.next_attempt_at),
        delivered_at=seconds(row.delivered_at),
        body=row.body,
    )
