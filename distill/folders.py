"""Folders that programs of strangers have filled: measured and removed however deep they are, and whatever their modes."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DEEPEST = 100
"""Folders inside of each other that are measured."""
_LEAST_BYTES = 4096
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def holds_more(folder: Path, most: int) -> bool:
    """Whether its files take more bytes of the disk, or lie deeper than is measured. An empty file takes its place, too."""
    with suppress(OSError), _entered(folder) as top:
        return _left(top, most, DEEPEST) < 0
    return False


def remove(folder: Path) -> None:
    """With all that is in it; what cannot be removed stays."""
    with suppress(OSError), _entered(folder) as top:
        _empty(top)
    with suppress(OSError):  # an empty one also where no more files may be opened
        folder.rmdir()


def _left(folder: int, most: int, depth: int) -> int:
    """What its files leave of so many bytes; below zero where there are folders beyond the depth."""
    if depth == 0:
        return -1
    with os.scandir(folder) as found:
        for entry in found:
            with suppress(OSError):  # it is gone
                most -= max(_LEAST_BYTES, 512 * entry.stat(follow_symlinks=False).st_blocks)
                if entry.is_dir(follow_symlinks=False):
                    with _entered(entry.name, folder) as inner:
                        most = _left(inner, most, depth - 1)
            if most < 0:
                break
    return most


def _empty(top: int) -> None:
    stuck = set[str]()
    while names := set(os.listdir(top)) - stuck:
        for name in names:
            try:
                _take_up(name, top)
            except OSError:
                stuck.add(name)


def _take_up(name: str, top: int) -> None:
    """Remove it from `top`; the folders in it come to `top` first, so that neither a path nor a stack gets long."""
    if not _is_folder(name, top):
        os.unlink(name, dir_fd=top)
        return
    with _entered(name, top) as inner:
        for each in os.listdir(inner):
            if _is_folder(each, inner):
                os.chmod(each, stat.S_IRWXU, dir_fd=inner)  # to be moved
                os.rename(each, secrets.token_hex(16), src_dir_fd=inner, dst_dir_fd=top)
            else:
                os.unlink(each, dir_fd=inner)
    os.rmdir(name, dir_fd=top)


def _is_folder(name: str, below: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=below, follow_symlinks=False).st_mode)


@contextmanager
def _entered(name: str | Path, below: int | None = None) -> Iterator[int]:
    """The descriptor of a folder, opened to us where its mode closes it. No link is followed: what may fill a folder makes none."""
    try:
        opened = os.open(name, _FOLDER, dir_fd=below)
    except PermissionError:
        os.chmod(name, stat.S_IRWXU, dir_fd=below)
        opened = os.open(name, _FOLDER, dir_fd=below)
    try:
        if os.fstat(opened).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.fchmod(opened, stat.S_IRWXU)
        yield opened
    finally:
        os.close(opened)
