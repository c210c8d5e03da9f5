"""Where the calls of a role go. Keys are read here, from this process's environment, and handed to the relay alone."""

import os
from collections.abc import Mapping

from distill.catalog import connections
from distill.catalog.models import Connection
from distill.db import Session
from distill.relay import Target
from distill.spec import LmSpec


def targets_of(s: Session, slots: Mapping[str, LmSpec]) -> dict[str, Target]:
    """`{slot: target}`. Raises NotFound for a connection that is gone."""
    rows = {lm.connection_id: connections.by_id(s, lm.connection_id) for lm in slots.values()}
    return {slot: target(rows[lm.connection_id], lm.model) for slot, lm in slots.items()}


def target(row: Connection, model: str) -> Target:
    return Target(row.id, row.base_url, model, api_key(row), row.max_in_flight)


def api_key(row: Connection) -> str | None:
    """The key of a connection, from the variable that its settings name."""
    return os.environ.get(row.api_key_env) if row.api_key_env else None


def any_waiting(s: Session, slots: Mapping[str, LmSpec]) -> bool:
    """True when one of the LM hosts has handed its device to a trainer."""
    ids = {lm.connection_id for lm in slots.values()}
    return any(connections.by_id(s, each).waiting_since is not None for each in ids)
