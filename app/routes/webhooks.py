"""/v1/webhook_endpoints."""

from __future__ import annotations

from fastapi import Response

from app.auth import Admin
from app.deps import BODY_ERRORS, DeliveryId, EndpointId, RecentPageDep, SessionDep, errors, router
from app.idempotency import Made, OnceDep
from app.schemas.common import Deleted, Page
from app.schemas.webhooks import WebhookDeliveryRead, WebhookEndpointMade, WebhookEndpointRead, WebhookEndpointRequest
from app.views.convert import page_of
from app.views.webhooks import delivery_read, endpoint_made, endpoint_read
from distill.catalog import webhooks

routes = router("webhooks")


@routes.post(
    "/webhook_endpoints",
    status_code=201,
    response_model=WebhookEndpointMade,
    summary="Have events delivered",
    responses={**BODY_ERRORS, **errors(409)},
)
def create_webhook_endpoint(body: WebhookEndpointRequest, caller: Admin, session: SessionDep, once: OnceDep) -> Response:
    """The secret is shown this once. Nothing is sent until the first event."""

    def make() -> Made:
        row, secret = webhooks.add(session, caller.project_id, body.url, body.events, caller.key_id)
        return Made(endpoint_made(row, secret), f"/v1/webhook_endpoints/{row.id}", replay=endpoint_made(row, None))

    return once.reply(make)


@routes.get("/webhook_endpoints", summary="List webhook endpoints")
def list_webhook_endpoints(caller: Admin, session: SessionDep, page: RecentPageDep) -> Page[WebhookEndpointRead]:
    """Newest first."""
    return page_of(webhooks.list_endpoints(session, caller.project_id, page), endpoint_read)


@routes.get("/webhook_endpoints/{endpoint_id}", summary="Read a webhook endpoint", responses=errors(404))
def get_webhook_endpoint(endpoint_id: EndpointId, caller: Admin, session: SessionDep) -> WebhookEndpointRead:
    """Where it is, and which events it wants."""
    return endpoint_read(webhooks.get(session, caller.project_id, endpoint_id))


@routes.delete("/webhook_endpoints/{endpoint_id}", summary="Remove a webhook endpoint", responses=errors(404))
def delete_webhook_endpoint(endpoint_id: EndpointId, caller: Admin, session: SessionDep) -> Deleted:
    """Its deliveries go with it, also those that wait."""
    webhooks.remove(session, caller.project_id, endpoint_id)
    return Deleted(id=endpoint_id, object="webhook_endpoint")


@routes.get("/webhook_endpoints/{endpoint_id}/deliveries", summary="What was delivered to an endpoint", responses=errors(404))
def list_webhook_deliveries(endpoint_id: EndpointId, caller: Admin, session: SessionDep, page: RecentPageDep) -> Page[WebhookDeliveryRead]:
    """Newest first, for a month."""
    return page_of(webhooks.deliveries(session, caller.project_id, endpoint_id, page), delivery_read)


@routes.post("/webhook_endpoints/{endpoint_id}/deliveries/{delivery_id}/redeliver", summary="Deliver an event again", responses=errors(404))
def redeliver_webhook(endpoint_id: EndpointId, delivery_id: DeliveryId, caller: Admin, session: SessionDep) -> WebhookDeliveryRead:
    """The same id and body; an endpoint that had answered 410 is asked again."""
    return delivery_read(webhooks.redeliver(session, caller.project_id, endpoint_id, delivery_id))
