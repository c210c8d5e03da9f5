"""Tokens that may follow a row's last one, computed in the same pass: a guess, or the tree of a closed grammar's alternatives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Ahead:
    """A tree of tokens below a row's last one, parents first; a parent of -1 is that last token.

    ``wanted`` are the places in ``tokens`` after which a hidden state is of use. In a ``chain`` every token follows the one before it.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    wanted: tuple[int, ...] = ()

    @classmethod
    def chain(cls, tokens: list[int]) -> Ahead:
        places = range(len(tokens))
        return cls(tuple(tokens), tuple(place - 1 for place in places), tuple(places))

    @cached_property
    def depths(self) -> npt.NDArray[np.int64]:
        """How many tokens lie between each token and the row's last one."""
        depths: npt.NDArray[np.int64] = self.sees.sum(1, dtype=np.int64) - 1
        return depths

    @cached_property
    def sees(self) -> npt.NDArray[np.bool_]:
        """``[token, other]``: whether the other token is the token itself or before it on its way."""
        sees = np.eye(len(self.tokens), dtype=np.bool_)
        for place, parent in enumerate(self.parents):
            if parent >= 0:
                sees[place] |= sees[parent]
        return sees

    def path(self, place: int) -> list[int]:
        """The tokens from the row's last one to ``place``."""
        return [token for token, seen in zip(self.tokens, self.sees[place], strict=True) if seen]
