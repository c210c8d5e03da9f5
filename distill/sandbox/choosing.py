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

_HOW = "install bubblewrap and allow it user namespaces, or run Linux 6.2 or newer with Landlock: see docs/how-to/sandbox.md"
_SWITCH_ON = 'set [sandbox] rung to "auto": see docs/how-to/sandbox.md'
_ELSEWHERE = "run workers and API on Linux, in the containers of docker-compose.yml for one"


@dataclass(frozen=True)
class Choice:
    """The rung on which user code runs. Without one none does; `why` says what was tried, and `advice` what helps."""

    rung: Rung | None
    outcomes: tuple[Outcome, ...] = ()

    @property
    def why(self) -> str:
        """What came of the rungs that were tried, for people; the one that holds first."""
        told = sorted(self.outcomes, key=lambda outcome: not outcome.holds)
        return "; ".join(map(str, told)) or ('[sandbox] rung is "none"' if _is_linux() else "there is a sandbox on Linux alone")

    @property
    def advice(self) -> str:
        """What an operator may do where no rung holds."""
        if self.outcomes:
            return _HOW
        return _SWITCH_ON if _is_linux() else _ELSEWHERE

    @property
    def refusal(self) -> str:
        """What is said to a user whose code may not run. Folders and users of this machine are for the doctor alone."""
        tried = ", ".join(f"{each.rung} {_fault(each)}" for each in self.outcomes) or self.why
        return f"this server has no sandbox that holds, so it runs no code of its users ({tried}); its operator may {self.advice}"


@cache
def choose(wanted: RungName = "auto", python: str = sys.executable, private: Sequence[Path] = ()) -> Choice:
    """Tried once for each process, with the interpreter that runs programs. `private`: see `try_rung`."""
    outcomes = list[Outcome]()
    for rung in _candidates(wanted):
        outcomes.append(try_rung(rung, python, private))
        if outcomes[-1].holds:
            return Choice(rung, tuple(outcomes))
    return Choice(None, tuple(outcomes))


def _fault(outcome: Outcome) -> str:
    return f"is left by {', '.join(outcome.got_out)}" if outcome.got_out else "does not start"


def _is_linux() -> bool:
    return sys.platform.startswith("linux")


def _candidates(wanted: RungName) -> Sequence[Rung]:
    if not _is_linux():
        return ()
    return [rung for rung in RUNGS if wanted in ("auto", rung.name)]


def choose_for(settings: Settings) -> Choice:
    """As a server's settings have it."""
    return choose(settings.sandbox.rung, settings.pythons["default"], (settings.home.absolute(),))
