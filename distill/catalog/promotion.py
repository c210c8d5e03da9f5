"""Whether an artifact may take an alias: by the interval around its difference to what the alias points at, measured on the same rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.catalog.models import Artifact
from distill.errors import Conflict


@dataclass(frozen=True, slots=True)
class Gate:
    """Move only when better: the whole 95 % interval of the difference to `against` (an alias) lies above `min_delta`."""

    against: str
    min_delta: float = 0.0


def check_better(candidate: Artifact, beaten_id: str, gate: Gate) -> None:
    """Raises Conflict: `not_compared`, `inconclusive` or `worse`."""
    evaluation: Mapping[str, Any] = json.loads(candidate.manifest).get("evaluation") or {}
    delta = _delta(evaluation, beaten_id)
    if delta is None:
        message = (
            f"{candidate.id} was not measured against {gate.against}, which is {beaten_id} now: "
            f'compile it with "evaluate": {{"incumbent": "{gate.against}"}} and held-out rows'
        )
        raise Conflict(message, code="not_compared", param="against")
    if delta["value"] is None:
        raise Conflict(f"{candidate.id} has too few pairs with {gate.against} to say which is better", code="inconclusive", param="against")
    if delta["low"] > gate.min_delta:
        return
    worse = delta["high"] < gate.min_delta
    raise Conflict(_says(candidate, gate, delta, worse=worse), code="worse" if worse else "inconclusive", param="against")


def _delta(evaluation: Mapping[str, Any], beaten_id: str) -> Mapping[str, Any] | None:
    delta = evaluation.get("delta") or {}
    measured = delta.get("against") == "incumbent" and evaluation.get("incumbent", {}).get("artifact") == beaten_id
    return delta if measured else None


def _says(candidate: Artifact, gate: Gate, delta: Mapping[str, Any], *, worse: bool) -> str:
    bar = "zero" if gate.min_delta == 0 else f"{gate.min_delta:+g}"
    span = f"its difference to {gate.against} is {delta['value']:+.3f} ({delta['low']:+.3f} to {delta['high']:+.3f}, 95 %)"
    return f"{candidate.id} is not clearly better: {span}, which {'is below' if worse else 'does not lie above'} {bar}"
