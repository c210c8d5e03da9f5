"""What can go wrong with a runner."""

from __future__ import annotations

import signal as signals
from typing import Literal

from distill.processes import End

Cause = Literal["stopped", "not_started", "out_of_memory", "signal", "exit", "silent", "protocol", "disk"]
"""`stopped`: this server ended it on purpose. `not_started`: it never greeted, so no user's code has run. `out_of_memory`: the system took
it for want of memory, or this server for what all its processes took. `signal`, `exit`: by the doing of the program it ran, since a runner
that is asked something never ends by itself. `silent`, `protocol`, `disk`: this server ended it, for holding its event loop too long, for
what it sent, or for what it wrote."""


class RunnerError(Exception):
    """The runner answered with `error`: the request cannot be served. The runner lives on."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.param = param


class RunnerDied(Exception):
    """The process ended, or was ended. `reason` says how, for people; `tail` holds the last lines of its log, for the operator alone."""

    def __init__(self, cause: Cause, reason: str, tail: str = "", signal: int | None = None) -> None:
        super().__init__(f"the runner {reason}")
        self.cause: Cause = cause
        self.reason = reason
        self.tail = tail
        self.signal = signal

    @property
    def is_the_programs(self) -> bool:
        """Whether the program it ran is the likely cause: a user's fault rather than the server's."""
        return self.cause in ("out_of_memory", "signal", "exit", "silent", "protocol", "disk")


class RunnerSilent(RunnerDied):
    """The process sent nothing for too long and was ended."""


def ended(end: End, tail: str, *, greeted: bool) -> RunnerDied:
    """A runner that ended without being asked to, classified by how."""
    cause, reason = _classify(end)
    if not greeted:
        cause, reason = "not_started", f"{reason} before it could be asked anything"
    return RunnerDied(cause, reason, tail, end.signal)


def _classify(end: End) -> tuple[Cause, str]:
    if end.out_of_memory:
        return "out_of_memory", f"was killed since memory ran out; it had used {end.peak_memory_bytes / 1024**3:.1f} GiB"
    if end.signal is not None:
        return "signal", f"was killed by signal {end.signal} ({_name(end.signal)})"
    return "exit", f"ended with exit code {end.code}"


def _name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return "unknown"
