"""A lock between processes, by the standard library alone: the client depends on httpx and pydantic, and on nothing for this."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[bytes]) -> None:
        while True:
            with suppress(OSError):  # it gives up after ten seconds
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                return
else:
    import fcntl

    def _take(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process and thread at a time makes `path`; the others wait. Look again then: it may be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.parent / f".{path.name}.lock"
    while True:
        with lock.open("ab") as file:  # closing it lets go
            _take(file)
            if not _is_at(file, lock):  # whoever had it before has removed it
                continue
            try:
                yield
            finally:
                with suppress(OSError):  # where open files cannot be removed, it stays
                    lock.unlink()
            return


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@asynccontextmanager
async def alone_async(path: Path) -> AsyncIterator[None]:
    """`alone` that lets other tasks go on while it waits."""
    held = alone(path)
    await asyncio.to_thread(held.__enter__)
    try:
        yield
    finally:
        held.__exit__(None, None, None)
