"""Examples that met trouble of their LM host: whether they are to be left out, and a second try before scores are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distill.execute.rollout_slice import Slice
from distill.jobs.claims import Claim
from distill.jobs.status import Step

Json = dict[str, Any]
ONE_BY_ONE = frozenset({"timeout", "unavailable", "bad_answer"})
"""Trouble that may be an example's own: a host that answers the others, and never this one."""
AWAY = frozenset({"connection_waiting", "model_loading"})
"""Trouble that says itself that it passes: nothing was asked of the host."""
OF_HOST = ONE_BY_ONE | AWAY | {"rate_limited", "quota_exhausted"}
"""Trouble that may be over when the example is asked again."""


def are_few(piece: Slice, troubles: Mapping[int, tuple[str, str]]) -> bool:
    """Whether the trouble is that of a few examples: then they are left out, instead of holding up all the others for ever."""
    few = len(troubles) <= max(1, len(piece.items) // 10)
    others = sum(piece.outcome(item) is not None for item in piece.items if item.example.index not in troubles)
    return few and others > len(troubles)


def is_last_try(claim: Claim) -> bool:
    """Whether examples were put off before: what meets trouble now is left out."""
    return bool(claim.payload.get("again"))


def put_off(claim: Claim, piece: Slice) -> tuple[Slice, list[Json]]:
    """The slice without those examples of an evaluated role that met trouble of their host, and the payloads by which each is asked again.

    The step stays open until they are asked, so no score is compared before.
    """
    met = {index for index, (code, _) in piece.undecided.items() if code in OF_HOST}
    if not met or claim.step is not Step.EVALUATE or is_last_try(claim):
        return piece, []
    places = [claim.payload["start"] + at for at, example in enumerate(piece.examples) if example.index in met]
    kept = [example for example in piece.examples if example.index not in met]
    undecided = {index: why for index, why in piece.undecided.items() if index not in met}
    later = [{"start": place, "stop": place + 1, "again": True} for place in places]
    return replace(piece, examples=kept, undecided=undecided), later
