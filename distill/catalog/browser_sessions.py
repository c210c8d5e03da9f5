"""Sessions of browsers `shs_<id>_<secret>`: what a browser gets for an API key, so that it need not keep the key.

A session may do what its key may, ends with it, and ends by itself after `SECONDS`. Stored like keys, and compared like them.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import ForeignKey, Index, Text, delete, func, select, text
from sqlalchemy.orm import Mapped, mapped_column

from distill.catalog import audit, keys
from distill.catalog.keys import Caller
from distill.catalog.models import CLOCK, ApiKey, Project
from distill.db import Base, Session
from distill.errors import Unauthenticated
from distill.ids import new_id

_PREFIX = "ses-"
SECONDS = 12 * 3600
"""A working day: whoever comes the next morning signs in again."""
_OVER = "This session is over: sign in again."
_PRUNE = text("""
DELETE FROM browser_sessions WHERE id IN (
  SELECT id FROM browser_sessions WHERE expires_at <= clock_timestamp() ORDER BY expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED)
""")


class BrowserSession(Base):
    """One sign-in. The row goes when it is over; the audit log keeps that it was there."""

    __tablename__ = "browser_sessions"
    __table_args__ = (Index("ix_browser_sessions_expires_at", "expires_at"),)

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    secret_sha256: Mapped[str] = mapped_column(Text)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    expires_at: Mapped[datetime]


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that is open, and whose it is."""

    row: BrowserSession
    caller: Caller


def start(s: Session, caller: Caller) -> tuple[Opened, str]:
    """A new session of the caller's key, and its token. It ends no later than the key will."""
    row_id, secret = new_id("ses"), secrets.token_urlsafe(32)
    until = func.least(func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, SECONDS), _end_of(caller))
    row = BrowserSession(id=row_id, secret_sha256=keys.hashed(secret), key_id=caller.key_id, expires_at=until)
    s.add(row)
    s.flush()
    s.refresh(row)
    audit.record(s, caller.project_id, "session.started", row_id)
    return Opened(row, replace(caller, session_id=row_id)), f"shs_{row_id.removeprefix(_PREFIX)}_{secret}"


def verify(s: Session, token: str) -> Opened:
    """Whose session it is. Raises Unauthenticated, with the key's own reason where that is what ended it."""
    kind, _, rest = token.partition("_")
    public, _, secret = rest.partition("_")
    query = select(BrowserSession, ApiKey, Project.name, func.clock_timestamp()).where(BrowserSession.id == _PREFIX + public[:64])
    query = query.join(ApiKey, ApiKey.id == BrowserSession.key_id).join(Project, Project.id == ApiKey.project_id)
    found = s.execute(query).first() if kind == "shs" and "\x00" not in token else None
    if not keys.is_secret(secret, found[0].secret_sha256 if found else None) or found is None or found[0].expires_at <= found[3]:
        raise Unauthenticated(_OVER, code="session_over")
    row, key, project_name, at = found
    return Opened(row, replace(keys.caller_of(key, project_name, at), session_id=row.id))


def end(s: Session, opened: Opened) -> None:
    """From the next request on its token opens nothing. Twice is no error.

    It stands under its own key: who signs in anew may do so with a key of another project, of which this one's log tells nothing.
    """
    gone = s.scalar(delete(BrowserSession).where(BrowserSession.id == opened.row.id).returning(BrowserSession.id))
    if gone is not None:
        audit.record(s, opened.caller.project_id, "session.ended", gone, key_id=opened.row.key_id)


def still_in(s: Session, caller: Caller) -> bool:
    """Whether a caller would be let in again: for what goes on long after it was checked."""
    if caller.key_id is not None and not keys.is_active(s, caller.key_id):
        return False
    open_one = select(BrowserSession.id).where(BrowserSession.id == caller.session_id, BrowserSession.expires_at > func.clock_timestamp())
    return caller.session_id is None or s.scalar(open_one) is not None


def prune(s: Session) -> None:
    """Forget sessions whose time is over."""
    s.execute(_PRUNE)


def _end_of(caller: Caller) -> object:
    return select(ApiKey.expires_at).where(ApiKey.id == caller.key_id).scalar_subquery()
