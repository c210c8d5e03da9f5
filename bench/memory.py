"""How much memory a process and all it has started took at most."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

import psutil


class Peak:
    """Watches a process tree for as long as the block lasts.

    The system keeps each process's own peak, so a short one is not missed; those of processes that live at the same time are added. The
    sum is what they would have taken had they all peaked at once: never less than what they took.
    """

    def __init__(self, pid: int, every_seconds: float = 0.2) -> None:
        self._root, self._every = psutil.Process(pid), every_seconds
        self._over = threading.Event()
        self._most = 0
        self._thread = threading.Thread(target=self._watch, name="peak", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    @property
    def megabytes(self) -> float:
        """Up to now."""
        self._look()
        return self._most / 2**20

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            self._look()

    def _look(self) -> None:
        total = 0
        for process in (self._root, *self._root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                total += _own_peak(process.pid)
        self._most = max(self._most, total)


def _own_peak(pid: int) -> int:
    """Bytes; 0 for a process that has ended and waits to be collected."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
