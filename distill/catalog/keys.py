"""API keys `sh_<token id>_<secret>`: shown once, stored as SHA-256, compared in constant time."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Literal

from sqlalchemy import func, select, text

from distill.catalog import audit
from distill.catalog.models import ApiKey, Project
from distill.catalog.projects import OPERATORS
from distill.db import Listing, Page, Session, now, paginate
from distill.errors import Conflict, Invalid, NotFound, Unauthenticated
from distill.ids import new_id, short_token
from distill.spec_part import did_you_mean

Status = Literal["active", "expired", "revoked"]
SCOPES = ("jobs:read", "jobs:write", "aliases:write", "models:use", "admin", "metrics:read", "operator")
OPERATORS_SCOPES = frozenset({"metrics:read", "operator"})
"""They reach beyond a project: only keys of the operators' project have them."""
USUAL_SCOPES = ("jobs:read", "jobs:write", "models:use")
_UNKNOWN = "The API key is unknown."
_OVER = {"revoked": "This API key was revoked.", "expired": "This API key has expired."}
_NO_SECRET = "0" * 64
_ALIVE = ApiKey.revoked_at.is_(None) & (ApiKey.expires_at.is_(None) | (ApiKey.expires_at > func.clock_timestamp()))
# Nobody waits for it, and it waits for nobody: whose row is taken at this moment is told of by its next use.
_USED = text("""
UPDATE api_keys SET last_used_at = clock_timestamp()
 WHERE id IN (SELECT id FROM api_keys
               WHERE id = ANY(:ids) AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')
                 FOR NO KEY UPDATE SKIP LOCKED)
""")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a key, its project and what it may do. `admin` may do everything."""

    key_id: str | None
    project_id: str
    scopes: frozenset[str] = frozenset()
    project_name: str = ""
    session_id: str | None = None
    """Of a browser that asks in the key's name."""

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    @property
    def reads_metrics(self) -> bool:
        """May see the metrics of the whole server."""
        return "metrics:read" in self.scopes or self.operates

    @property
    def operates(self) -> bool:
        """May see and stop the jobs of all projects, and change what projects may use."""
        return self.project_name == OPERATORS and not self.scopes.isdisjoint({"admin", "operator"})

    @property
    def makes_projects(self) -> bool:
        """An admin of the operators' project: may make projects, and their first keys."""
        return self.project_name == OPERATORS and "admin" in self.scopes


def create(
    s: Session,
    project_id: str,
    label: str,
    scopes: Iterable[str] = USUAL_SCOPES,
    *,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its token, which cannot be shown again. Raises Invalid for a scope that is unknown or the operators', or an expiry that
    has passed."""
    wanted = list(dict.fromkeys(scopes))
    for scope in wanted:
        if scope not in SCOPES:
            raise Invalid(f"scopes: unknown scope `{scope[:64]}`{did_you_mean(scope[:64], SCOPES)}", code="unknown_scope", param="scopes")
    if (beyond := OPERATORS_SCOPES & set(wanted)) and project_id != s.scalar(select(Project.id).where(Project.name == OPERATORS)):
        message = f"scopes: `{min(beyond)}` reaches beyond a project: only keys of the project `{OPERATORS}` may have it"
        raise Invalid(message, code="operators_scope", param="scopes")
    if expires_at is not None and expires_at <= now(s):
        raise Invalid("expires_at: this time has passed already", param="expires_at")
    token_id, secret = short_token(12), secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id("key"),
        token_id=token_id,
        secret_sha256=hashed(secret),
        project_id=project_id,
        label=label,
        scopes=wanted,
        expires_at=expires_at,
    )
    s.add(key)
    s.flush()
    s.refresh(key)
    audit.record(s, project_id, "api_key.created", key.id, {"label": label, "scopes": wanted, "expires_at": _seconds(expires_at)})
    return key, f"sh_{token_id}_{secret}"


def rotate(
    s: Session,
    project_id: str,
    key_id: str,
    overlap: timedelta,
    *,
    label: str | None = None,
    scopes: Iterable[str] | None = None,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new key in the place of another, with its label and scopes unless they are given; the old one ends after `overlap`.

    Raises NotFound, and Conflict for a key that is over already. The errors of `create` too.
    """
    old = get(s, project_id, key_id, param="replaces", lock=True)
    if status_of(old, now(s)) != "active":
        raise Conflict(f"{key_id} is {status_of(old, now(s))}: make a new key instead", code="key_over", param="replaces")
    made = create(s, project_id, label or old.label, old.scopes if scopes is None else scopes, expires_at=expires_at)
    end = now(s) + overlap
    old.expires_at = end if old.expires_at is None else min(old.expires_at, end)
    audit.record(s, project_id, "api_key.replaced", key_id, {"by": made[0].id, "expires_at": _seconds(old.expires_at)})
    return made


def verify(s: Session, token: str) -> Caller:
    """Whose token this is.

    Raises Unauthenticated: `expired_api_key` and `revoked_api_key` are said to who has the secret; to all others nothing, in words or
    in time, about which part was wrong.
    """
    kind, _, rest = token.partition("_")
    token_id, _, secret = rest.partition("_")
    query = select(ApiKey, Project.name, func.clock_timestamp()).join(Project, Project.id == ApiKey.project_id)
    row = s.execute(query.where(ApiKey.token_id == token_id[:64])).first() if kind == "sh" and "\x00" not in token else None
    if not is_secret(secret, row[0].secret_sha256 if row else None) or row is None:
        raise Unauthenticated(_UNKNOWN)
    return caller_of(row[0], row[1], row[2])


def caller_of(key: ApiKey, project_name: str, at: datetime) -> Caller:
    """Who asks, once the secret was shown. Raises Unauthenticated for a key that is over."""
    if (status := status_of(key, at)) != "active":
        raise Unauthenticated(_OVER[status], code=f"{status}_api_key")
    return Caller(key.id, key.project_id, frozenset(key.scopes), project_name)


def status_of(key: ApiKey, at: datetime) -> Status:
    """How a key stands at a time."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= at else "active"


def note_use(s: Session, key_ids: Iterable[str]) -> None:
    """These keys were used just now; a key's time is written at most once a minute."""
    s.execute(_USED, {"ids": sorted(key_ids)})


def list_keys(s: Session, project_id: str, page: Page) -> Listing[ApiKey]:
    """All keys of a project, those that are over among them."""
    return paginate(s, select(ApiKey).where(ApiKey.project_id == project_id), ApiKey.id, page)


def get(s: Session, project_id: str, key_id: str, *, param: str = "id", lock: bool = False) -> ApiKey:
    query = select(ApiKey).where(ApiKey.id == key_id, ApiKey.project_id == project_id)
    row = s.scalar(query.with_for_update(key_share=True) if lock else query)
    if row is None:
        raise NotFound(f"no API key {key_id}", code="key_not_found", param=param)
    return row


def is_active(s: Session, key_id: str) -> bool:
    """Whether a key still opens anything: for what goes on long after it was checked."""
    return s.scalar(select(ApiKey.id).where(ApiKey.id == key_id, _ALIVE)) is not None


def exist(s: Session) -> bool:
    """Whether anybody holds a key that opens this server."""
    return s.scalar(select(ApiKey.id).where(_ALIVE).limit(1)) is not None


def project_of(s: Session, key_id: str) -> str | None:
    """The id of the project that a key belongs to; None where there is no such key."""
    return s.scalar(select(ApiKey.project_id).where(ApiKey.id == key_id))


def revoke(s: Session, project_id: str, key_id: str) -> ApiKey:
    """End a key for good; revoking twice is no error. Raises NotFound."""
    key = get(s, project_id, key_id, lock=True)
    if key.revoked_at is None:
        key.revoked_at = func.clock_timestamp()
        audit.record(s, project_id, "api_key.revoked", key_id, {"label": key.label})
        s.refresh(key)
    return key


def _seconds(when: datetime | None) -> int | None:
    return None if when is None else int(when.timestamp())


def is_secret(secret: str, expected: str | None) -> bool:
    """Whether a secret has this hash, in the same time whatever it is; without a hash, never."""
    return hmac.compare_digest(hashed(secret), expected or _NO_SECRET)


def hashed(secret: str) -> str:
    return sha256(secret.encode("utf-8", "replace")).hexdigest()
