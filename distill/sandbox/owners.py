"""Users of their own for sandboxed processes, where this process is root: no two that live have the same one."""

from __future__ import annotations

import fcntl
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

FIRST, LAST = 60706, 61183
"""Numbers that distributions, systemd and containers give to nobody."""


@dataclass(frozen=True)
class Owner:
    """A user id that is held until `release`. Whatever it could write to must be gone by then."""

    uid: int
    lock: int

    def release(self) -> None:
        os.close(self.lock)


def claim() -> Owner | None:
    """A free user id of this machine; None when this process is not root. Raises OSError when all are held."""
    if os.geteuid() != 0:
        return None
    folder = _folder()
    for uid in range(FIRST, LAST + 1):
        lock = os.open(folder / str(uid), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return Owner(uid, lock)
    raise OSError(0, f"all user ids from {FIRST} to {LAST} are held by other runners")


def _folder() -> Path:
    """Of root alone, and the same for all its processes."""
    folder = Path(tempfile.gettempdir(), "stillhouse-uids")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != 0 or found.st_mode & 0o77 or not folder.is_dir() or folder.is_symlink():
        raise OSError(0, f"{folder} is not a folder of root alone; remove it")
    return folder
