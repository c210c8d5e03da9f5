"""What all processes of a runner take of the machine's memory together, which no limit of a process bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import psutil

from distill.sandbox.removed import seen_as

KILOBYTE = 1024


def holds_more(pids: Iterable[int], uid: int | None, most: int) -> bool:
    """Whether these processes take more bytes than that; pages that several share count once, pages of mapped files do not count.

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
    """Takes milliseconds. Where it cannot be read, shared pages and pages of files count in full."""
    with suppress(OSError, KeyError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        sizes = {line.split()[0]: int(line.split()[1]) * KILOBYTE for line in lines if line.startswith("Pss")}
        return sizes.get("Pss_Anon:", sizes["Pss:"]) + sizes.get("Pss_Shmem:", 0)  # Linux before 5.4 has the sum alone
    return _resident(pid)


class Fall:
    """Tells when the machine has lost free memory since somebody last looked where it went."""

    def __init__(self) -> None:
        self._known, self._step = psutil.virtual_memory().available, total_bytes() // 20

    def is_seen(self) -> bool:
        """Whether a twentieth of all memory was taken since this was last true."""
        available = psutil.virtual_memory().available
        fell: bool = available < self._known - self._step
        self._known = available if fell else max(self._known, available)
        return fell


def total_bytes(root: Path = Path("/")) -> int:
    """The machine's memory, or the limit of this process's control group or of a group around it where that is less.

    `root` is where `proc` and `sys` are found.
    """
    return min([int(psutil.virtual_memory().total), *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, group = line.split(":", 2)
            if number == "0":
                yield from _limits(root / "sys/fs/cgroup", group, "memory.max")
            elif "memory" in controllers.split(","):
                yield from _limits(root / "sys/fs/cgroup/memory", group, "memory.limit_in_bytes")


def _limits(mount: Path, group: str, name: str) -> Iterator[int]:
    """Of the group and those around it. A container may see its own group as the mount, under a path that only the host has."""
    within = PurePosixPath(group.lstrip("/"))
    for place in (within, *within.parents):
        with suppress(OSError, ValueError):  # no such file; no limit
            yield int((mount / place / name).read_text())
