"""API keys `sh_<token id>_<secret>`: shown once, stored as SHA-256, compared in constant time."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from sqlalchemy import func, select, text

from distill.catalog.models import ApiKey, Project
from distill.db import Session
from distill.errors import Invalid, NotFound, Unauthenticated
from distill.ids import new_id, short_token
from distill.spec import did_you_mean

SCOPES = ("jobs:read", "jobs:write", "aliases:write", "models:use", "admin")
_UNKNOWN = "The API key is unknown, revoked or expired."
_NO_SECRET = "0" * 64
_ALIVE = ApiKey.revoked_at.is_(None) & (ApiKey.expires_at.is_(None) | (ApiKey.expires_at > func.clock_timestamp()))
_USED = text("""
UPDATE api_keys SET last_used_at = clock_timestamp()
 WHERE id = :id AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')
""")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a key, its project and what it may do. `admin` may do everything."""

    key_id: str | None
    project_id: str
    scopes: frozenset[str] = frozenset()
    project_name: str = ""

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


def create(
    s: Session,
    project_id: str,
    label: str,
    scopes: Iterable[str] = ("jobs:read", "jobs:write", "models:use"),
    *,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its token, which cannot be shown again. Raises Invalid for an unknown scope."""
    wanted = list(dict.fromkeys(scopes))
    for scope in wanted:
        if scope not in SCOPES:
            raise Invalid(f"scopes: unknown scope `{scope}`{did_you_mean(scope, SCOPES)}", code="unknown_scope", param="scopes")
    token_id, secret = short_token(12), secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id("key"),
        token_id=token_id,
        secret_sha256=_hash(secret),
        project_id=project_id,
        label=label,
        scopes=wanted,
        expires_at=expires_at,
    )
    s.add(key)
    s.flush()
    s.refresh(key)
    return key, f"sh_{token_id}_{secret}"


def verify(s: Session, token: str) -> Caller:
    """Whose token this is. Raises Unauthenticated, in words and time that tell nothing about which part was wrong."""
    kind, _, rest = token.partition("_")
    token_id, _, secret = rest.partition("_")
    query = select(ApiKey, Project.name).join(Project, Project.id == ApiKey.project_id).where(ApiKey.token_id == token_id[:64], _ALIVE)
    row = s.execute(query).first() if kind == "sh" and "\x00" not in token else None
    expected = row[0].secret_sha256 if row else _NO_SECRET
    if not hmac.compare_digest(_hash(secret), expected) or row is None:
        raise Unauthenticated(_UNKNOWN)
    s.execute(_USED, {"id": row[0].id})
    return Caller(row[0].id, row[0].project_id, frozenset(row[0].scopes), row[1])


def get(s: Session, project_id: str, key_id: str) -> ApiKey:
    row = s.scalar(select(ApiKey).where(ApiKey.id == key_id, ApiKey.project_id == project_id))
    if row is None:
        raise NotFound(f"no API key {key_id}", param="id")
    return row


def exist(s: Session) -> bool:
    """Whether anybody holds a key that opens this server."""
    return s.scalar(select(ApiKey.id).where(_ALIVE).limit(1)) is not None


def revoke(s: Session, project_id: str, key_id: str) -> ApiKey:
    """End a key for good; revoking twice is no error. Raises NotFound."""
    key = get(s, project_id, key_id)
    if key.revoked_at is None:
        key.revoked_at = func.clock_timestamp()
        s.flush()
        s.refresh(key)
    return key


def _hash(secret: str) -> str:
    return sha256(secret.encode("utf-8", "replace")).hexdigest()
