"""Answered requests by their `Idempotency-Key`: stored in the request's own transaction, so a reply exists exactly when its work does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select, text

from distill.catalog.models import IdempotencyKey
from distill.db import Session
from distill.errors import Conflict, Invalid

KEPT_HOURS = 48
IN_PROGRESS = "idempotency_in_progress"

_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")
_FORGET = text("""
DELETE FROM idempotency_keys WHERE project_id = :project_id AND route = :route AND key = :key
   AND created_at < clock_timestamp() - make_interval(hours => :hours)
""")
_PRUNE = text("""
DELETE FROM idempotency_keys WHERE ctid IN (
  SELECT ctid FROM idempotency_keys WHERE created_at < clock_timestamp() - make_interval(hours => :hours)
   ORDER BY created_at LIMIT 1000 FOR UPDATE SKIP LOCKED)
""")


@dataclass(frozen=True, slots=True)
class Request:
    """What makes two requests the same: `digest` is over the body."""

    project_id: str
    route: str
    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str
    headers: Mapping[str, str]


def begin(s: Session, request: Request) -> Answer | None:
    """The stored answer, or None for the first one to come; that one calls `finish` in the same transaction.

    Raises:
        Conflict: another request with this key is running now.
        Invalid: the key was used with another body.
    """
    name = f"{request.project_id} {request.route} {request.key}"
    if not s.execute(_LOCK, {"name": name}).scalar_one():
        raise Conflict("A request with this Idempotency-Key is still running.", code=IN_PROGRESS)
    s.execute(_FORGET, {"project_id": request.project_id, "route": request.route, "key": request.key, "hours": KEPT_HOURS})
    row = s.scalars(
        select(IdempotencyKey).where(
            IdempotencyKey.project_id == request.project_id, IdempotencyKey.route == request.route, IdempotencyKey.key == request.key
        )
    ).first()
    if row is None or row.status is None or row.body is None:
        return None
    if row.request_digest != request.digest:
        raise Invalid("This Idempotency-Key was used with another body.", code="idempotency_key_reused")
    return Answer(row.status, row.body, row.headers or {})


def finish(s: Session, request: Request, answer: Answer) -> None:
    """Store the answer; it becomes visible with the work."""
    s.add(
        IdempotencyKey(
            project_id=request.project_id,
            route=request.route,
            key=request.key,
            request_digest=request.digest,
            status=answer.status,
            body=answer.body,
            headers=dict(answer.headers),
        )
    )


def prune(s: Session) -> None:
    """Delete some of the answers whose time is over; the dispatcher asks again and again."""
    s.execute(_PRUNE, {"hours": KEPT_HOURS})
