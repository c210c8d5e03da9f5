"""What all processes of a runner take of the machine's memory together, which no limit of a process bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from distill.sandbox.removed import seen_as

KILOBYTE = 1024


def holds_more(pids: Iterable[int], uid: int | None, most: int) -> bool:
    """Whether these processes take more bytes than that; pages that several share count once.

    `uid` is the processes' user, where this one is root.
    """
    found = list(pids)
    if _sum(_resident, found) <= most:
        return False
    with seen_as(uid):
        return _sum(_own_share, found) > most


def _sum(measure: Callable[[int], int], pids: Iterable[int]) -> int:
    total = 0
    for pid in pids:
        with suppress(OSError, psutil.Error):  # it has ended
            total += measure(pid)
    return total


def _resident(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def _own_share(pid: int) -> int:
    """Takes milliseconds. Where it cannot be read, shared pages count in full."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * KILOBYTE
    return _resident(pid)


class Fall:
    """Tells when the machine has lost free memory since somebody last looked where it went."""

    def __init__(self) -> None:
        memory = psutil.virtual_memory()
        self._known, self._step = memory.available, memory.total // 20

    def is_seen(self) -> bool:
        """Whether a twentieth of all memory was taken since this was last true."""
        available = psutil.virtual_memory().available
        fell: bool = available < self._known - self._step
        self._known = available if fell else max(self._known, available)
        return fell


def half_of_machine() -> int:
    """In bytes."""
    return int(psutil.virtual_memory().total) // 2
