"""Process groups: look at them, stop them in order, leave none behind.

Standard library only and no side effects on import: the reaper, a process that must start fast and outlive its parent, uses this too.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc/self/stat")


@dataclass(frozen=True)
class Leash:
    """How one child is stopped.

    Attributes:
        pid: leader of its own session and process group.
        stop_signal: what asks it to end by itself.
        grace_seconds: how long it may take before its whole tree is killed.
        tier: the highest tier stops first, tier 0 (the servers) last.
    """

    pid: int
    stop_signal: int
    grace_seconds: float
    tier: int


def stop_in_order(leashes: Sequence[Leash], reap: Callable[[], None] = lambda: None) -> None:
    """Stop children tier by tier; afterwards no process of their trees is left.

    `reap` is called while waiting and collects exit codes where the caller is the parent.
    """
    for tier in sorted({leash.tier for leash in leashes}, reverse=True):
        _stop_tier([leash for leash in leashes if leash.tier == tier], reap)


def _stop_tier(leashes: Sequence[Leash], reap: Callable[[], None]) -> None:
    # Children of a part may lead sessions of their own (PostgreSQL's do, trainers too), so the group alone does not reach them.
    # A part that dies on the signal orphans them: look before it is sent, and again while waiting.
    trees = _trees(leashes)
    for leash in leashes:
        send(leash.pid, leash.stop_signal)
    end = time.monotonic() + max(leash.grace_seconds for leash in leashes)
    while any(is_running(leash.pid) for leash in leashes) and time.monotonic() < end:
        trees |= _trees(leashes)
        reap()
        pause(0.05)
    for leash in leashes:
        send_group(leash.pid, signal.SIGKILL)
    for pid, born in trees.items():
        if start_time(pid) == born:
            send(pid, signal.SIGKILL)
    reap()


def _trees(leashes: Iterable[Leash]) -> dict[int, str]:
    """Start time by pid of all descendants; the start time tells a process from a later one with the same number."""
    found: dict[int, str] = {}
    children = _children_by_parent()
    for leash in leashes:
        for pid in _walk(leash.pid, children):
            if (born := start_time(pid)) is not None:
                found[pid] = born
    return found


def _walk(pid: int, children: dict[int, list[int]]) -> list[int]:
    found, todo = [], [pid]
    while todo:
        current = todo.pop()
        found.append(current)
        todo.extend(children.get(current, []))
    return found


def descendants(pid: int) -> list[int]:
    """The process and everything below it, parents first."""
    return _walk(pid, _children_by_parent())


def _children_by_parent() -> dict[int, list[int]]:
    children: dict[int, list[int]] = defaultdict(list)
    for pid, parent in _process_table():
        children[parent].append(pid)
    return children


def _process_table() -> Iterable[tuple[int, int]]:
    """(pid, parent pid) of every process, by /proc or, on macOS, by ps."""
    if _PROC.exists():
        for entry in os.listdir("/proc"):
            if entry.isdigit() and (fields := _stat(int(entry))):
                yield int(entry), int(fields[1])
    else:
        listing = subprocess.run(["ps", "-Ao", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        for line in listing.splitlines():
            pid, parent = line.split()
            yield int(pid), int(parent)


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on (the name before it may hold blanks and brackets)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None


def start_time(pid: int) -> str | None:
    """When the process started, as an opaque value; None when there is no such process."""
    if _PROC.exists():
        fields = _stat(pid)
        return fields[19] if fields else None
    return _ps(pid, "lstart=") or None


def is_running(pid: int) -> bool:
    """Whether the process does anything: a zombie waiting for its parent does not count."""
    if _PROC.exists():
        fields = _stat(pid)
        return fields is not None and fields[0] not in "ZX"
    state = _ps(pid, "state=")
    return bool(state) and not state.startswith("Z")


def _ps(pid: int, column: str) -> str:
    return subprocess.run(["ps", "-o", column, "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()


def send(pid: int, number: int) -> None:
    """Signal one process; one that has ended already is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def send_group(pid: int, number: int) -> None:
    """Signal a whole process group; one that has ended already is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def pause(seconds: float) -> None:
    """Wait between two looks at a process of somebody else, of which nothing tells us when it ends."""
    threading.Event().wait(seconds)
