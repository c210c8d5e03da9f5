"""Webhooks: where a project's events are delivered to, and every delivery, in the form of Standard Webhooks (standardwebhooks.com).

A delivery is written in the transaction of what it tells of, so that neither is there without the other. It is sent after the commit, at
least once, until the endpoint answers 2xx or the tries are used up.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, text, update

from distill import sealing
from distill.catalog import audit, counters, sealed
from distill.catalog.webhook_rows import WebhookDelivery, WebhookEndpoint
from distill.db import Listing, Page, Session, now, paginate
from distill.egress import check_url
from distill.errors import Conflict, Invalid, NotFound
from distill.ids import new_id
from distill.settings import get_settings
from distill.spec_part import did_you_mean

EVENTS = (
    "compile_job.running",
    "compile_job.paused",
    "compile_job.succeeded",
    "compile_job.failed",
    "compile_job.cancelled",
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    "alias.moved",
)
MOST_TRIES = 10
MOST_ENDPOINTS = 20
_SECRET_PREFIX = "whsec_"  # noqa: S105 - in front of every secret
_SECRET_BYTES = 32

_WANTING = text("""
SELECT id FROM webhook_endpoints WHERE project_id = :project_id AND disabled_at IS NULL AND :type = ANY (events) FOR KEY SHARE
""")
_TAKE = text("""
UPDATE webhook_deliveries d
   SET attempts = d.attempts + 1, tries = d.tries + 1, last_attempt_at = clock_timestamp(),
       next_attempt_at = clock_timestamp() + make_interval(secs => :lease_seconds)
  FROM webhook_endpoints e
 WHERE e.id = d.endpoint_id AND d.id = ANY (ARRAY(
   SELECT id FROM webhook_deliveries
    WHERE status = 'pending' AND next_attempt_at <= clock_timestamp() AND endpoint_id <> ALL (CAST(:busy AS text[]))
      AND (CAST(:only AS text[]) IS NULL OR endpoint_id = ANY (CAST(:only AS text[])))
    ORDER BY next_attempt_at LIMIT :many FOR UPDATE SKIP LOCKED))  -- ARRAY: see outbox.py
RETURNING d.id, d.endpoint_id, d.body, d.attempts, e.url, e.sealed_secret
""")
_DELIVERED = text("""
UPDATE webhook_deliveries
   SET status = 'delivered', delivered_at = clock_timestamp(), next_attempt_at = NULL, last_status = :status, last_error = NULL
 WHERE id = :id AND attempts = :attempt AND status = 'pending'
""")
_REFUSED = text("""
UPDATE webhook_deliveries
   SET status = CASE WHEN tries < :most THEN 'pending' ELSE 'failed' END, last_status = :status, last_error = :error,
       next_attempt_at = CASE WHEN tries < :most
         THEN clock_timestamp() + make_interval(secs => LEAST(:cap, :pause * 5 ^ (tries - 1)) * (0.75 + random() / 4)) END
 WHERE id = :id AND attempts = :attempt AND status = 'pending'
""")
_GIVE_UP = text("""
UPDATE webhook_deliveries SET status = 'failed', next_attempt_at = NULL WHERE endpoint_id = :endpoint_id AND status = 'pending'
""")
# Ids sort by creation: only the oldest are looked at, however many there are.
_PRUNE = text("""
DELETE FROM webhook_deliveries WHERE id IN (
  SELECT id FROM (SELECT id, status, created_at FROM webhook_deliveries ORDER BY id LIMIT 500) oldest
   WHERE status <> 'pending' AND created_at < clock_timestamp() - make_interval(days => 30))
""")


@dataclass(frozen=True, slots=True)
class Parcel:
    """A delivery that is to be sent now; `attempt` is its fence."""

    id: str
    endpoint_id: str
    url: str
    body: str
    sealed_secret: bytes
    attempt: int

    @property
    def secret(self) -> str:
        """Raises CannotOpen."""
        return _open(self.endpoint_id, self.sealed_secret)


# ------------------------------------------------------------------ endpoints


def add(s: Session, project_id: str, url: str, events: Sequence[str], key_id: str | None) -> tuple[WebhookEndpoint, str]:
    """A new endpoint and its secret, `whsec_…`, which cannot be shown again. Raises Invalid, Conflict, CannotOpen."""
    check_url(url, get_settings().egress.hosts)
    for event in events:
        if event not in EVENTS:
            raise Invalid(f"events: unknown event `{event[:64]}`{did_you_mean(event, EVENTS)}", code="unknown_event", param="events")
    held = s.scalar(select(func.count()).select_from(WebhookEndpoint).where(WebhookEndpoint.project_id == project_id))
    if held is not None and held >= MOST_ENDPOINTS:
        raise Conflict(f"a project has at most {MOST_ENDPOINTS} webhook endpoints; delete one first", code="too_many_endpoints")
    endpoint_id, secret = new_id("whk"), secrets.token_bytes(_SECRET_BYTES)
    row = WebhookEndpoint(
        id=endpoint_id,
        project_id=project_id,
        url=url,
        events=list(dict.fromkeys(events)),
        sealed_secret=sealed.seal(s, secret, purpose(endpoint_id)),
        created_by=key_id,
    )
    s.add(row)
    s.flush()
    s.refresh(row)
    audit.record(s, project_id, "webhook_endpoint.created", endpoint_id, {"url": url, "events": row.events})
    return row, _SECRET_PREFIX + base64.b64encode(secret).decode()


def get(s: Session, project_id: str, endpoint_id: str) -> WebhookEndpoint:
    row = s.scalar(select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.project_id == project_id))
    if row is None:
        raise NotFound(f"no webhook endpoint {endpoint_id}", param="id")
    return row


def list_endpoints(s: Session, project_id: str, page: Page) -> Listing[WebhookEndpoint]:
    return paginate(s, select(WebhookEndpoint).where(WebhookEndpoint.project_id == project_id), WebhookEndpoint.id, page)


def remove(s: Session, project_id: str, endpoint_id: str) -> None:
    """Its deliveries go with it. Raises NotFound."""
    row = get(s, project_id, endpoint_id)
    s.delete(row)
    audit.record(s, project_id, "webhook_endpoint.deleted", endpoint_id, {"url": row.url})


def purpose(endpoint_id: str) -> str:
    """What an endpoint's secret is sealed for."""
    return f"webhook_endpoint:{endpoint_id}"


def _open(endpoint_id: str, sealed_secret: bytes) -> str:
    return _SECRET_PREFIX + base64.b64encode(sealing.unseal(sealed_secret, purpose(endpoint_id))).decode()


# ------------------------------------------------------------------ deliveries


def announce(s: Session, project_id: str, type: str, data: Mapping[str, Any]) -> None:
    """Queue an event for every endpoint of the project that wants it, in the caller's transaction."""
    wanting = s.scalars(_WANTING, {"project_id": project_id, "type": type}).all()
    if not wanting:
        return
    at = now(s)
    for endpoint_id in wanting:
        delivery_id = new_id("evt")
        body = {"id": delivery_id, "object": "event", "created_at": int(at.timestamp()), "type": type}
        whole = json.dumps({**body, "timestamp": at.isoformat(), "data": dict(data)})
        s.add(WebhookDelivery(id=delivery_id, endpoint_id=endpoint_id, type=type, body=whole, next_attempt_at=at))
    s.flush()


def deliveries(s: Session, project_id: str, endpoint_id: str, page: Page) -> Listing[WebhookDelivery]:
    """What was sent to an endpoint, and what came of it. Raises NotFound."""
    get(s, project_id, endpoint_id)
    return paginate(s, select(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint_id), WebhookDelivery.id, page)


def redeliver(s: Session, project_id: str, endpoint_id: str, delivery_id: str) -> WebhookDelivery:
    """Queue a delivery again, with the same id and body; an endpoint that was disabled is asked again. Raises NotFound."""
    endpoint = get(s, project_id, endpoint_id)
    again = {"status": "pending", "tries": 0, "next_attempt_at": func.clock_timestamp(), "delivered_at": None}
    own = (WebhookDelivery.id == delivery_id, WebhookDelivery.endpoint_id == endpoint_id)
    row: WebhookDelivery | None = s.scalar(update(WebhookDelivery).where(*own).values(again).returning(WebhookDelivery))
    if row is None:
        raise NotFound(f"no delivery {delivery_id} to {endpoint_id}", param="delivery_id")
    endpoint.disabled_at = None
    s.flush()
    s.refresh(row)
    return row


def take(s: Session, many: int, busy: Collection[str], only: Collection[str] | None = None) -> list[Parcel]:
    """Deliveries that are due, but for those to `busy` endpoints; where `only` is given, of those to its endpoints. Each is this caller's
    until twice the time of a try has passed."""
    values = {"many": many, "busy": list(busy), "only": None if only is None else list(only)}
    values["lease_seconds"] = 2 * get_settings().timers.webhook_seconds
    return [Parcel(row.id, row.endpoint_id, row.url, row.body, row.sealed_secret, row.attempts) for row in s.execute(_TAKE, values)]


def record(s: Session, parcel: Parcel, status: int | None, error: str | None) -> None:
    """What came of a try: a status of HTTP, or why there is none. 410 Gone disables the endpoint."""
    values = {"id": parcel.id, "attempt": parcel.attempt, "status": status}
    delivered = status is not None and 200 <= status < 300
    counters.add(s, [counters.Increment("webhook_attempts", ("delivered" if delivered else "failed",))])
    if delivered:
        s.execute(_DELIVERED, values)
        return
    if status == 410:  # before the delivery: who removes an endpoint locks in this order too
        s.execute(update(WebhookEndpoint).where(WebhookEndpoint.id == parcel.endpoint_id).values(disabled_at=func.clock_timestamp()))
    timers = get_settings().timers
    pauses = {"pause": timers.webhook_pause_seconds, "cap": timers.webhook_pause_cap_seconds}
    s.execute(_REFUSED, {**values, **pauses, "error": error, "most": MOST_TRIES})
    if status == 410:
        s.execute(_GIVE_UP, {"endpoint_id": parcel.endpoint_id})


def prune(s: Session) -> None:
    """Forget deliveries that ended, a month after they were made."""
    s.execute(_PRUNE)
