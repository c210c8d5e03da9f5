"""The LMs of a role under the names by which a client asks the gateway for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill.db import Session
from distill.execute.rollout_slice import Slice
from distill.execute.targets import asked, targets_of
from distill.pipeline.costs import Asked
from distill.pipeline.roles import Cast
from distill.spec import LmSpec


@dataclass(frozen=True)
class Slots:
    """`by_model` says of each name what it costs, and how costs name it."""

    by_model: Mapping[str, Asked]

    @classmethod
    def of(cls, s: Session, piece: Slice) -> Slots:
        """Raises Refused for a connection that leads elsewhere than at submit, NotFound for one that is gone."""
        cast = piece.cast
        found = asked(cast, targets_of(s, cast))
        return cls({name_of(cast.slots[slot]): each for slot, each in found.items()})

    @property
    def asked(self) -> Sequence[Asked]:
        return list(self.by_model.values())

    def model_of(self, cast: Cast, slot: str) -> str:
        return name_of(cast.slots[slot])


def name_of(lm: LmSpec) -> str:
    """`connection/model`; a fine-tuned model goes by its id."""
    return lm.model if lm.starts_from else f"{lm.connection}/{lm.model}"
