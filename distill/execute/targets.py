"""Where the calls of a role go."""

from collections.abc import Mapping
from dataclasses import replace

from distill.catalog import connections
from distill.catalog.prices import price_of_lm
from distill.catalog.targets import target_of
from distill.db import Session
from distill.pipeline.costs import Asked
from distill.pipeline.refusals import Reason, Refused
from distill.pipeline.roles import Cast
from distill.relay import Target


def targets_of(s: Session, cast: Cast) -> dict[str, Target]:
    """`{slot: target}`. Raises Refused for a connection that leads elsewhere than at submit, NotFound for one that is gone."""
    rows = {lm.connection_id: connections.by_id(s, lm.connection_id) for lm in cast.slots.values()}
    for lm in cast.slots.values():
        if rows[lm.connection_id].revision != lm.connection_revision:
            raise Refused(_changed(cast.role, rows[lm.connection_id].name))
        if rows[lm.connection_id].removed_at is not None:
            raise Refused(_removed(cast.role, rows[lm.connection_id].name))
    found = {slot: (rows[lm.connection_id], lm) for slot, lm in cast.slots.items()}
    return {slot: replace(target_of(row, lm.model), price=price_of_lm(row, lm)) for slot, (row, lm) in found.items()}


def asked(cast: Cast, targets: Mapping[str, Target]) -> dict[str, Asked]:
    """`{slot: the LM as costs name it}`."""
    return {slot: Asked(f"{lm.connection}/{lm.model}", targets[slot].price) for slot, lm in cast.slots.items()}


def _changed(role: str, connection: str) -> Reason:
    """Its answers would be stored as those of the LM host that the job was submitted for."""
    text = f"Connection {connection} leads to another LM host than when the job was submitted. Submit it again to call the new one."
    return _reason("connection_changed", text, role)


def _removed(role: str, connection: str) -> Reason:
    """After a retry of a job that had failed: none that is under way loses its connections."""
    return _reason("connection_removed", f"Connection {connection} was removed. Submit the job again with another one.", role)


def _reason(code: str, text: str, role: str) -> Reason:
    step, param = "bootstrap" if ":" in role else "evaluate", "teacher" if role.startswith("teacher") else "lms"
    return Reason(code, text, step, param, retryable=False)
