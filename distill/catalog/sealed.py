"""Sealing a secret that is to be stored."""

from __future__ import annotations

from sqlalchemy import text

from distill import sealing
from distill.db import Session

_SHARED = text("SELECT pg_advisory_xact_lock_shared(hashtextextended('sealing', 0))")
_ALONE = text("SELECT pg_advisory_xact_lock(hashtextextended('sealing', 0))")


def seal(s: Session, secret: bytes, purpose: str) -> bytes:
    """Under the key of this moment, which is not exchanged before the transaction ends: else nothing would seal the row anew.

    Raises CannotOpen when the key is no key.
    """
    keep_key(s)
    return sealing.seal(secret, purpose)


def keep_key(s: Session) -> None:
    """The key is not exchanged before the transaction ends. To be called before rows are locked that hold a secret."""
    s.execute(_SHARED)


def hold_keys(s: Session) -> None:
    """Wait for every transaction that has sealed something; nobody seals until this one ends."""
    s.execute(_ALONE)
