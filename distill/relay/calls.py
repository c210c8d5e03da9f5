"""What LM hosts were asked, in memory until somebody takes it to write it down."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MOST_CALLS = 100_000
"""Kept while nobody can write: the oldest go first."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to a connection's LM host. `outcome` is `ok`, or the code of its error; of a stream, `seconds` last until it begins."""

    connection: str
    outcome: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Answered:
    """The tokens of one answer, and what it cost in US dollars; None where nobody knows."""

    connection: str
    prompt_tokens: int
    completion_tokens: int
    usd: float | None


class CallLog:
    """Safe to use from any thread."""

    def __init__(self) -> None:
        self._calls: deque[Attempt | Answered] = deque(maxlen=MOST_CALLS)
        self._lock = threading.Lock()

    def attempted(self, connection: str, outcome: str, seconds: float) -> None:
        with self._lock:
            self._calls.append(Attempt(connection, outcome, seconds))

    def answered(self, connection: str, usage: Mapping[str, Any], usd: float | None) -> None:
        with self._lock:
            self._calls.append(Answered(connection, usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0, usd))

    def take(self) -> list[Attempt | Answered]:
        """What has come since the last time."""
        with self._lock:
            taken = list(self._calls)
            self._calls.clear()
            return taken

    def put_back(self, calls: Iterable[Attempt | Answered]) -> None:
        """They could not be written."""
        with self._lock:
            self._calls.extendleft(reversed(list(calls)))
