"""Files that were removed and are still open: they take room on the disk, and no folder shows them."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

_LIBC = ctypes.CDLL(None, use_errno=True)
_NOT_OURS = ctypes.c_uint(-1)
"""A user that there is none of: asked to become it, the kernel says who is now."""


def size(pids: Iterable[int], uid: int | None) -> int:
    """The bytes that those of some processes take, each file once. `uid` is the processes' user, where this one is root."""
    with seen_as(uid):
        found = {(entry.st_dev, entry.st_ino): 512 * entry.st_blocks for pid in pids for entry in _open(pid) if _is_removed(entry)}
    return sum(found.values())


def _open(pid: int) -> Iterator[os.stat_result]:
    """What a process has open, as far as it can be seen."""
    with suppress(OSError):  # it has ended
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed meanwhile
                yield os.stat(f"/proc/{pid}/fd/{name}")


def _is_removed(entry: os.stat_result) -> bool:
    return stat.S_ISREG(entry.st_mode) and entry.st_nlink == 0


@contextmanager
def seen_as(uid: int | None) -> Iterator[None]:
    """Of another user's processes root sees the files with a power that containers do not give it; that user does without.

    It is for this thread alone, and for files alone.
    """
    if uid is None:
        yield
        return
    before = _LIBC.setfsgid(_NOT_OURS), _LIBC.setfsuid(_NOT_OURS)
    _LIBC.setfsgid(uid)
    _LIBC.setfsuid(uid)
    try:
        yield
    finally:
        _LIBC.setfsuid(before[1])
        _LIBC.setfsgid(before[0])
