"""What rows need of a grammar, whichever kind it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from engines.lmhost.ahead import Ahead


@dataclass(frozen=True)
class Allowed:
    """The tokens that a grammar allows next: their ``ids`` where they are few, else ``forbidden [vocab]`` (bool)."""

    ids: Tensor | None
    forbidden: Tensor | None


class Walk(Protocol):
    """One row's way through a grammar."""

    @property
    def done(self) -> bool:
        """Nothing can follow."""

    @property
    def error(self) -> str:
        """Why the walk cannot go on, or an empty string."""

    def accept(self, token: int) -> None:
        """Step over one chosen token."""

    def forced(self) -> list[int]:
        """Tokens that must follow, tokenised as the tokenizer would; they count as accepted."""

    def allowed(self) -> Allowed:
        """The tokens that may follow, the end of the answer among them where the grammar accepts."""

    def ahead(self, most: int, depth: int) -> Ahead:
        """The ways to the next choices, where they are few: at most ``most`` tokens, none of them more than ``depth`` away."""


class Grammar(Protocol):
    """A compiled grammar."""

    def walk(self) -> Walk:
        """A fresh walk from the start."""
