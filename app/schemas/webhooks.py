"""Webhook endpoints and what was delivered to them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from app import examples
from app.schemas.common import Body, Reply
from app.schemas.rules import declared
from distill.catalog.webhooks import EVENTS
from distill.spec_faults import WEB_ADDRESS


class WebhookEndpointRequest(Body):
    """Where events are to be delivered to, and which."""

    model_config = examples.shown(url="https://hooks.example.com/stillhouse", events=["compile_job.succeeded", "compile_job.failed"])

    url: Annotated[
        str,
        Field(min_length=1, max_length=2048, description="https, and public unless the operator allows its host"),
        declared(pattern=WEB_ADDRESS),
    ]
    events: Annotated[
        list[Annotated[str, declared(enum=sorted(EVENTS))]],
        Field(min_length=1, max_length=64, description="Types of events, `compile_job.succeeded` for one"),
    ]


class WebhookEndpointRead(Reply):
    """An endpoint. `disabled_at` is when it answered 410 Gone: nothing is delivered to it any more."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    created_by: str | None
    url: str
    events: list[str]
    disabled_at: int | None


class WebhookEndpointMade(WebhookEndpointRead):
    """A new endpoint."""

    secret: str | None = Field(description="`whsec_…`, for checking signatures; null where the request is repeated: it is shown once")


class WebhookDeliveryRead(Reply):
    """One event on its way to one endpoint. `id` is the event's, and the header `webhook-id`."""

    id: str
    object: Literal["webhook_delivery"] = "webhook_delivery"
    created_at: int
    type: str
    status: str = Field(description="`pending`, `delivered` or `failed`")
    attempts: int
    last_attempt_at: int | None
    last_status: int | None = Field(description="What the endpoint answered to the last try")
    last_error: str | None
    next_attempt_at: int | None
    delivered_at: int | None
    body: str = Field(description="What is sent, letter by letter")
