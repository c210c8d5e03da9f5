"""Where the calls of a role go."""

from collections.abc import Mapping

from distill.catalog import connections
from distill.catalog.targets import target_of
from distill.db import Session
from distill.relay import Target
from distill.spec import LmSpec


def targets_of(s: Session, slots: Mapping[str, LmSpec]) -> dict[str, Target]:
    """`{slot: target}`. Raises NotFound for a connection that is gone."""
    rows = {lm.connection_id: connections.by_id(s, lm.connection_id) for lm in slots.values()}
    return {slot: target_of(rows[lm.connection_id], lm.model) for slot, lm in slots.items()}


def any_waiting(s: Session, slots: Mapping[str, LmSpec]) -> bool:
    """True when one of the LM hosts has handed its device to a trainer."""
    ids = {lm.connection_id for lm in slots.values()}
    return any(connections.by_id(s, each).waiting_since is not None for each in ids)
