"""CPU time of a process and of everything it has started."""

from __future__ import annotations

from contextlib import suppress

import psutil


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process tree so far: those that run, and those that ended and were waited for.

    Raises psutil.NoSuchProcess when the process itself is gone.
    """
    root = psutil.Process(pid)
    total = _own(root)
    for child in root.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            total += _own(child)
    return total


def _own(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0))
