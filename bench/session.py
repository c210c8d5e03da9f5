"""What an area is given: sizes, folders, and somebody to tell how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

BASE_MODEL = "smollm2-135m-instruct"


def _nobody(_: int) -> None:
    return


def _nothing(_: str) -> None:
    return


@dataclass
class Session:
    """One run of the bench.

    Attributes:
        quick: small sizes, to see that everything works.
        seed: of every random choice.
        home: STILLHOUSE_HOME, where downloads and base models are kept.
        scratch: removed afterwards; areas leave for later ones what these may use, by name.
        base_model: that is trained and served, by a name that the engines know.
        expect: told once how many ticks the area will make.
        tick: told what begins now.
    """

    quick: bool
    seed: int
    home: Path
    scratch: Path
    base_model: str = BASE_MODEL
    expect: Callable[[int], None] = field(default=_nobody)
    tick: Callable[[str], None] = field(default=_nothing)

    def size(self, quick: T, full: T) -> T:
        """The size for this run."""
        return quick if self.quick else full

    def folder(self, name: str) -> Path:
        """A scratch folder, made where missing; others may pass through it (the database runs as another user)."""
        made = self.scratch / name
        made.mkdir(parents=True, exist_ok=True)
        made.chmod(0o711)
        return made

    @property
    def threads(self) -> int:
        """Of torch, on both sides."""
        return os.cpu_count() or 1

    def environment(self, **more: str) -> dict[str, str]:
        """For processes of both sides: the shell's variables, without settings of a server that may run beside."""
        ours = ("STILLHOUSE_", "DATABASE_URL", "REDIS_URL", "LMHOST_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours) or name == "STILLHOUSE_MODELS"}
        return {**kept, "STILLHOUSE_HOME": str(self.home), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", **more}
