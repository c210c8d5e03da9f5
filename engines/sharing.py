"""How an LM host and a trainer on one processor make room for each other. Pure standard library.

Each shows the other what it is doing by a lock on a file in ``$STILLHOUSE_HOME/sharing``; the system takes the lock away with its process.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Literal

Doing = Literal["training", "answering"]
NICENESS = 10
"""Of a trainer: beside a process that is not nice it gets about a tenth of a core that both want."""


class Sign:
    """What some process of this home is doing, shown by one and read by the other. Nothing is shown where the home cannot be written."""

    def __init__(self, doing: Doing) -> None:
        self._doing = doing
        self._is_shown_here = False

    @cached_property
    def _file(self) -> int | None:
        folder = Path(os.environ.get("STILLHOUSE_HOME", ".stillhouse")).absolute() / "sharing"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return os.open(folder / self._doing, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None

    def show(self, shown: bool = True) -> None:
        """Begin or end to show it."""
        if shown == self._is_shown_here or self._file is None:
            return
        with suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_SH if shown else fcntl.LOCK_UN)  # waits for a reader's look at most
            self._is_shown_here = shown

    def is_shown(self) -> bool:
        """Whether another process shows it now."""
        if self._file is None:
            return False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return False


def give_way() -> None:
    """Let all other processes have the processor first. Linux may weigh sessions before processes, so one of our own is made nice too."""
    os.nice(NICENESS)
    if os.environ.get("STILLHOUSE_DIE_WITH_PARENT") == "1":  # a worker has started us, in a new session
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICENESS))
