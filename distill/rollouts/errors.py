"""What can go wrong with a runner."""

from __future__ import annotations


class RunnerError(Exception):
    """The runner answered with `error`: the request cannot be served. The runner lives on."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.param = param


class RunnerDied(Exception):
    """The process ended, or was ended because it broke the protocol. `tail` holds the last lines of its log."""

    def __init__(self, reason: str, *, code: int | None = None, signal: int | None = None, tail: str = "") -> None:
        super().__init__(f"{reason}{f' (signal {signal})' if signal else ''}{f' (exit {code})' if code else ''}")
        self.reason = reason
        self.code = code
        self.signal = signal
        self.tail = tail


class RunnerSilent(RunnerDied):
    """The process sent nothing for too long and was ended."""
