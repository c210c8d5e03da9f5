"""Which rung is used: the best that holds, or the one that the operator names, if it holds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from distill.sandbox.rungs import RUNGS, Rung
from distill.sandbox.self_test import Outcome, try_rung
from distill.settings import RungName, Settings

HOW = "install bubblewrap and allow it user namespaces, or run Linux 6.2 or newer with Landlock: see docs/how-to/sandbox.md"


@dataclass(frozen=True)
class Choice:
    """The rung on which user code runs. Without one none does, and `why` says what was tried."""

    rung: Rung | None
    outcomes: tuple[Outcome, ...] = ()

    @property
    def why(self) -> str:
        """What came of the rungs that were tried, for people."""
        return "; ".join(map(str, self.outcomes)) or "none was tried: [sandbox] rung is none, or this is not Linux"

    @property
    def refusal(self) -> str:
        """What is said to a user whose code may not run. Folders and users of this machine are for the doctor alone."""
        tried = ", ".join(f"{each.rung}: {', '.join(each.got_out) or 'does not start'}" for each in self.outcomes) or "none is asked for"
        return f"this server has no sandbox that holds, so it runs no code of its users ({tried}); its operator may {HOW}"


@cache
def choose(wanted: RungName = "auto", python: str = sys.executable, private: Sequence[Path] = ()) -> Choice:
    """Tried once for each process, with the interpreter that runs programs. `private`: see `try_rung`."""
    outcomes = list[Outcome]()
    for rung in _candidates(wanted):
        outcomes.append(try_rung(rung, python, private))
        if outcomes[-1].holds:
            return Choice(rung, tuple(outcomes))
    return Choice(None, tuple(outcomes))


def _candidates(wanted: RungName) -> Sequence[Rung]:
    if not sys.platform.startswith("linux"):
        return ()
    return [rung for rung in RUNGS if wanted in ("auto", rung.name)]


def choose_for(settings: Settings) -> Choice:
    """As a server's settings have it."""
    return choose(settings.sandbox.rung, settings.pythons["default"], (settings.home.absolute(),))
