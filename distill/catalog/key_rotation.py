"""Sealing every stored secret anew under the first of the installation's keys, while everything goes on."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import select

from distill import sealing
from distill.catalog import own_keys, sealed, webhooks
from distill.catalog.models import Connection
from distill.catalog.webhook_rows import WebhookEndpoint
from distill.db import Session
from distill.errors import CannotOpen, KeyNotRead

LOST_KEY = (
    "give the key that they were sealed under in STILLHOUSE_SEALING_KEY or sealing.key of the home, behind the new one and a comma; "
    "where it is lost, give these secrets again"
)
"""What to do about secrets that no key opens."""


@dataclass
class Rotation:
    """`closed` are ids whose secret opens under no key that is known here: they stay as they are."""

    secrets: int = 0
    sealed_anew: int = 0
    closed: list[str] = field(default_factory=list)

    def look_at(self, row_id: str, secret: bytes, purpose: str) -> bytes:
        """What is to stand in the row. Raises KeyNotRead."""
        self.secrets += 1
        try:
            anew = sealing.sealed_anew(secret, purpose)
        except KeyNotRead:
            raise  # not closed for that: the key that opens it would be dropped
        except CannotOpen:
            self.closed.append(row_id)
            return secret
        self.sealed_anew += anew is not None
        return secret if anew is None else anew


def rotate(s: Session) -> Rotation:
    """Within the caller's transaction, all or none: killed before its commit, everything is still sealed as it was, and may be tried again.

    With the keys in the home's file a new one is put in front first; after a rotation that was cut off, the one that it had put there.
    """
    sealed.hold_keys(s)
    if sealing.has_own_file() and not sealing.has_several_keys():
        sealing.put_new_key_first()
    done = Rotation()
    for endpoint in s.scalars(_ENDPOINTS.with_for_update()):
        endpoint.sealed_secret = done.look_at(endpoint.id, endpoint.sealed_secret, webhooks.purpose(endpoint.id))
    for connection in s.scalars(_WITH_KEY.with_for_update()):
        if connection.sealed_key is not None and connection.project_id is not None:
            for_what = own_keys.purpose(connection.project_id, connection.id)
            connection.sealed_key = done.look_at(connection.id, connection.sealed_key, for_what)
    s.flush()
    return done


def closed(s: Session) -> tuple[int, list[str]]:
    """How many secrets are stored, and the ids of those that open under none of the keys. Raises CannotOpen for a key that is no key."""
    secrets = [(row.id, row.sealed_secret, webhooks.purpose(row.id)) for row in s.scalars(_ENDPOINTS)]
    for row in s.scalars(_WITH_KEY):
        if row.sealed_key is not None and row.project_id is not None:
            secrets.append((row.id, row.sealed_key, own_keys.purpose(row.project_id, row.id)))
    return len(secrets), [row_id for row_id, secret, purpose in secrets if not sealing.opens(secret, purpose)]


def warning_of_lost_key(s: Session) -> str | None:
    """One line where stored secrets open under none of the keys. A process starts all the same: what needs no secret goes on."""
    number, lost = closed(s)
    return f"{len(lost)} of {number} stored secrets open under none of the keys ({', '.join(lost)}): {LOST_KEY}" if lost else None


_ENDPOINTS = select(WebhookEndpoint).order_by(WebhookEndpoint.id)
_WITH_KEY = select(Connection).where(Connection.sealed_key.is_not(None)).order_by(Connection.id)
