"""The keys of projects' own connections: sealed in the row, opened where a call is made."""

from __future__ import annotations

import threading
import time

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from distill import sealing
from distill.catalog.models import Connection
from distill.db import unit_of_work
from distill.errors import CannotOpen, NotFound
from distill.relay import Target

log = structlog.get_logger(__name__)

FRESH_SECONDS = 1.0
"""How long a key may be used without another look: who changes it waits no longer for every process to know."""
REST_SECONDS = 15.0
"""How long a database that did not answer is left alone: a look at one that hangs takes as long as its limits allow."""


def open_key(project_id: str, connection_id: str, sealed: bytes) -> str:
    """Raises CannotOpen."""
    return sealing.unseal(sealed, purpose(project_id, connection_id)).decode()


def purpose(project_id: str, connection_id: str) -> str:
    """What it is sealed for: in another project's row, or another row of its project, it cannot be opened."""
    return f"connection:{project_id}:{connection_id}"


def own_target(row: Connection, model: str) -> Target:
    """A model of a project's own connection: at a public address, with the key of the moment of the call."""
    return Target(
        connection=row.id,
        base_url=row.base_url,
        model=model,
        read_key=OwnKey(row).read,
        max_in_flight=row.max_in_flight,
        public_only=True,
        changed_at=row.updated_at.timestamp(),
        revision=row.revision,
    )


class OwnKey:
    """The key of one connection, as the row says it that a target was made from, and from time to time the database. For any thread."""

    def __init__(self, row: Connection) -> None:
        self._id, self._name, self._revision = row.id, row.name, row.revision
        self._purpose = purpose(row.project_id or "", row.id)
        self._sealed, self._looked_at = row.sealed_key, time.monotonic()
        self._is_away = self._is_gone = False
        self._looking = threading.Lock()

    def read(self) -> str | None:
        """None where there is no key. While the database is away, and while another thread looks, what was read last holds.

        Raises NotFound once the connection is removed or leads elsewhere, since its key is not for the address of before; CannotOpen for
        a key that was sealed under none of this installation's.
        """
        if self._is_due() and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._looking.release()
        try:
            return self._opened()
        except CannotOpen:  # sealed anew since it was read, and the key of before is gone
            with self._looking:
                self._look()
            return self._opened()

    def _is_due(self) -> bool:
        return time.monotonic() - self._looked_at >= (REST_SECONDS if self._is_away else FRESH_SECONDS)

    def _opened(self) -> str | None:
        if self._is_gone:
            raise NotFound(f"connection {self._name} was removed, or leads elsewhere since", code="connection_not_found")
        return None if self._sealed is None else sealing.unseal(self._sealed, self._purpose).decode()

    def _look(self) -> None:
        query = select(Connection.sealed_key, Connection.revision, Connection.removed_at).where(Connection.id == self._id)
        try:
            with unit_of_work(waits=False) as s:
                now = s.execute(query).one()
        except SQLAlchemyError as error:
            log.warning("connection_key_not_read", connection=self._name, kind=type(error).__name__)
            self._is_away = True
        else:
            self._is_away = False
            self._is_gone = now.removed_at is not None or now.revision != self._revision
            self._sealed = now.sealed_key
        self._looked_at = time.monotonic()
