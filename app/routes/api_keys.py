"""/v1/api_keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Query, Response

from app.auth import Admin, KeyRevoker
from app.compose import naming_no_path
from app.deps import BODY_ERRORS, KeyId, RecentPageDep, SessionDep, errors, router
from app.idempotency import Made, OnceDep
from app.schemas.account import KeyCreate, KeyMade, KeyRead, KeyRevoked
from app.schemas.common import Page
from app.views.account import key_made, key_read
from app.views.convert import page_of
from distill.catalog import audit, keys, projects
from distill.catalog.keys import Caller
from distill.catalog.models import ApiKey
from distill.db import Session, now, unit_of_work
from distill.errors import Invalid
from distill.jobs import cancelling

routes = router("account")

A_DAY = 86_400


@routes.post("/api_keys", status_code=201, response_model=KeyMade, summary="Make an API key", responses={**BODY_ERRORS, **errors(409)})
def create_api_key(body: KeyCreate, caller: Admin, session: SessionDep, once: OnceDep) -> Response:
    """The token is shown this once; only a hash of it is kept. With `replaces` the old key ends after `overlap_seconds`."""

    def make() -> Made:
        row, token = _make(session, _owner(session, caller, body), body)
        at = now(session)
        return Made(key_made(row, at, token), f"/v1/api_keys/{row.id}", replay=key_made(row, at, None))

    return once.reply(make)


def _owner(session: Session, caller: Caller, body: KeyCreate) -> str:
    """The id of the project that the key will belong to. Raises Invalid."""
    if body.project is None or body.project in (caller.project_name, caller.project_id):
        return caller.project_id
    if not caller.makes_projects:
        raise Invalid(f"project: this key belongs to project {caller.project_name}", code="wrong_project", param="project")
    with naming_no_path():
        return projects.get(session, body.project).id


def _make(session: Session, project_id: str, body: KeyCreate) -> tuple[ApiKey, str]:
    expires_at = None if body.expires_at is None else datetime.fromtimestamp(body.expires_at, UTC)
    if body.replaces is not None:
        overlap = timedelta(seconds=A_DAY if body.overlap_seconds is None else body.overlap_seconds)
        with naming_no_path():
            return keys.rotate(session, project_id, body.replaces, overlap, label=body.label, scopes=body.scopes, expires_at=expires_at)
    if body.overlap_seconds is not None:
        raise Invalid("overlap_seconds: has a meaning only with `replaces`", param="overlap_seconds")
    if body.label is None:
        raise Invalid("label: say who or what will use the key", code="missing_field", param="label")
    return keys.create(session, project_id, body.label, body.scopes or keys.USUAL_SCOPES, expires_at=expires_at)


@routes.get("/api_keys", summary="List API keys")
def list_api_keys(caller: Admin, session: SessionDep, page: RecentPageDep) -> Page[KeyRead]:
    """Newest first; also those that have expired or were revoked."""
    at = now(session)
    return page_of(keys.list_keys(session, caller.project_id, page), lambda row: key_read(row, at))


@routes.get("/api_keys/{key_id}", summary="Read an API key", responses=errors(404))
def get_api_key(key_id: KeyId, caller: Admin, session: SessionDep) -> KeyRead:
    """By its id (`key-…`), which is no part of the token."""
    return key_read(keys.get(session, caller.project_id, key_id), now(session))


@routes.delete("/api_keys/{key_id}", summary="Revoke an API key", responses=errors(404))
def delete_api_key(
    key_id: KeyId,
    caller: KeyRevoker,
    cancel_jobs: Annotated[bool, Query(description="Cancel the jobs that the key made, too")] = False,
) -> KeyRevoked:
    """From the next request on it is refused. Its id stays, since objects name who made them. Operators revoke keys of all projects.

    The key is revoked before its jobs are cancelled. After an error ask again: it stays revoked, and the other jobs are cancelled."""
    with unit_of_work("api") as s:
        audit.acts(s, caller.key_id)
        owner = keys.project_of(s, key_id) if caller.operates else None
        keys.revoke(s, owner or caller.project_id, key_id)
    cancelled = cancelling.cancel_each_of_key(key_id, by=caller.key_id) if cancel_jobs else 0
    return KeyRevoked(id=key_id, object="api_key", cancelled_jobs=cancelled)
