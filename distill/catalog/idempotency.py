"""Answered requests by their `Idempotency-Key`.

begin, finish           in the request's own transaction, so a reply exists exactly when its work does
claim, keep, release    where the work is done elsewhere, by an LM for one: the key is held meanwhile by a row without an answer
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, select, text, update

from distill.catalog.idempotency_models import IdempotencyKey
from distill.db import Session
from distill.errors import Conflict, Invalid

KEPT_HOURS = 48
HELD_MINUTES = 15
"""How long a key is held for work that is done elsewhere: longer than that takes, and the process that holds it may have died."""
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

_CLAIM = text("""
INSERT INTO idempotency_keys AS held (project_id, route, key, request_digest, headers)
VALUES (:project_id, :route, :key, :digest, json_build_object('owner', CAST(:owner AS text)))
ON CONFLICT (project_id, route, key) DO UPDATE
   SET request_digest = excluded.request_digest, headers = excluded.headers, status = NULL, body = NULL, created_at = clock_timestamp()
 WHERE held.created_at < clock_timestamp() - make_interval(hours => :hours)
    OR (held.status IS NULL
        AND (held.headers ->> 'owner' = :owner OR held.created_at < clock_timestamp() - make_interval(mins => :minutes)))
RETURNING 1
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
        raise _still_running()
    s.execute(_FORGET, {"project_id": request.project_id, "route": request.route, "key": request.key, "hours": KEPT_HOURS})
    row = s.scalar(select(IdempotencyKey).where(*_same(request)))
    if row is None or row.status is None or row.body is None:
        return None
    _check_body(row, request)
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


def claim(s: Session, request: Request, owner: str) -> Answer | None:
    """The stored answer, or None once the key is held by `owner`, who then calls `keep` or `release`. Raises as `begin`."""
    words = {"project_id": request.project_id, "route": request.route, "key": request.key, "digest": request.digest}
    if s.execute(_CLAIM, {**words, "owner": owner, "hours": KEPT_HOURS, "minutes": HELD_MINUTES}).first() is not None:
        return None
    row = s.scalar(select(IdempotencyKey).where(*_same(request)))
    if row is None:
        raise _still_running()
    _check_body(row, request)
    if row.status is None or row.body is None:
        raise _still_running()
    return Answer(row.status, row.body, row.headers or {})


def keep(s: Session, request: Request, owner: str, answer: Answer) -> None:
    """Store the answer, if the key is still held by `owner`."""
    values = {"status": answer.status, "body": answer.body, "headers": dict(answer.headers)}
    s.execute(update(IdempotencyKey).where(*_held(request, owner)).values(values))


def release(s: Session, request: Request, owner: str) -> None:
    """Let the key go, if it is still held by `owner`: nothing came of the request."""
    s.execute(delete(IdempotencyKey).where(*_held(request, owner)))


def _same(request: Request) -> tuple[ColumnElement[bool], ...]:
    row = IdempotencyKey
    return (row.project_id == request.project_id, row.route == request.route, row.key == request.key)


def _held(request: Request, owner: str) -> tuple[ColumnElement[bool], ...]:
    return (*_same(request), IdempotencyKey.status.is_(None), IdempotencyKey.headers.op("->>")("owner") == owner)


def _check_body(row: IdempotencyKey, request: Request) -> None:
    if row.request_digest != request.digest:
        raise Invalid("This Idempotency-Key was used with another body.", code="idempotency_key_reused")


def _still_running() -> Conflict:
    return Conflict("A request with this Idempotency-Key is still running.", code=IN_PROGRESS)


def prune(s: Session) -> None:
    """Delete some of the answers whose time is over; the dispatcher asks again and again."""
    s.execute(_PRUNE, {"hours": KEPT_HOURS})
