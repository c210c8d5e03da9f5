"""A folder of this process's own, for sockets and for the homes of its children. What a killed process left goes when another starts.

Homes of runners hold parts of users' prompts, so they must not stay. Whoever lives holds a lock on its folder; one that nobody holds is
nobody's, whatever process numbers say in this container or that.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from distill import folders

PREFIX = "stillhouse-scratch-"
YOUNG_SECONDS = 60.0
"""A folder may be younger than its lock; it is left alone for so long."""

_lock = threading.Lock()
_own: list[Path] = []


def make_folder(name: str, owner: int | None = None) -> Path:
    """A new folder that only this user may enter; its maker removes it, and the process's end does where that was forgotten.

    With `owner` it is that user's, who may then pass through the folder of this process, and not list it. Only root can.
    """
    with _lock:
        if not _own:
            _own.append(_claim())
            atexit.register(folders.remove, _own[0])
            sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_own[0]))
    if owner is not None:
        _own[0].chmod(0o711)
        os.chown(folder, owner, owner)
    return folder


def _claim() -> Path:
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX)  # held, and never inherited, until this process ends
    return folder


def sweep() -> None:
    """Remove the folders of processes that are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, or removed meanwhile
            if time.time() - folder.stat().st_mtime > YOUNG_SECONDS and _is_nobodys(folder):
                folders.remove(folder)


def _is_nobodys(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
