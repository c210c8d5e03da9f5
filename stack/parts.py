"""What the stack is made of: a part is one command, how it is seen to be ready, and how it is stopped."""

import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from stack.network import answers


class Watched(Protocol):
    """What a readiness check may look at."""

    def said(self, pattern: re.Pattern[str]) -> bool:
        """Whether a line of the part's output matches."""


Ready = Callable[[Watched], bool]


@dataclass(frozen=True)
class Owner:
    """The user a part runs as, when that is not ours (PostgreSQL refuses to run as root)."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Part:
    """One process of the stack.

    Attributes:
        name: shown before its log lines; also the name of its log file.
        command: argument list.
        tier: see Leash; parts of a higher tier start later and stop earlier.
        ready: asked until it is true or `ready_seconds` have passed.
        environment: added to that of the stack.
        stop_signal: what asks the part to end by itself.
        grace_seconds: how long that may take.
        owner: user to run as.
    """

    name: str
    command: tuple[str, ...]
    tier: int
    ready: Ready
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: int = signal.SIGTERM
    grace_seconds: float = 10.0
    ready_seconds: float = 90.0
    owner: Owner | None = None
    workdir: Path | None = None


def line(pattern: str) -> Ready:
    """Ready once a line of the output matches."""
    compiled = re.compile(pattern)
    return lambda watched: watched.said(compiled)


def reachable(url: str) -> Ready:
    """Ready once a GET of the address answers 200."""
    return lambda _watched: answers(url)


def at_once(_watched: Watched) -> bool:
    """Ready as soon as it runs."""
    return True


def is_root() -> bool:
    """Whether we run as the superuser."""
    return os.geteuid() == 0
