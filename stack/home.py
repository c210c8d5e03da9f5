"""The home folder of a stack: who owns it, what it has started, its secrets.

lock               held while a stack runs; holds its process number and address
state.json         0600: server password, addresses, the processes started last
credentials.json   0600: address and API key for SDK and CLI
pg/ valkey/ blobs/ logs/
"""

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from stack.errors import AlreadyRunning, HomeUnusable
from stack.processes import is_running, pause, start_time

_HANDOVER_SECONDS = 40.0


def open_home(home: Path) -> Path:
    """Create the folder; others may pass through it (the database's user must) but not list it. Raises HomeUnusable."""
    home = home.expanduser().resolve()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o711)
        home.chmod(0o711)
    except OSError as error:
        raise HomeUnusable(home, error) from error
    return home


class HomeLock:
    """One stack a home. The reaper inherits the lock, so it is free only when all processes of the last stack are gone."""

    def __init__(self, home: Path) -> None:
        """Raises HomeUnusable."""
        self._home = home
        try:
            self._file: IO[str] = (home / "lock").open("a+")
        except OSError as error:
            raise HomeUnusable(home, error) from error

    @property
    def fd(self) -> int:
        return self._file.fileno()

    def acquire(self) -> None:
        """Raises AlreadyRunning. Waits while the reaper of a killed stack still cleans up."""
        end = time.monotonic() + _HANDOVER_SECONDS
        while not self._try():
            holder = self.holder()
            pid = holder.get("pid")
            if not isinstance(pid, int) or is_running(pid) or time.monotonic() > end:
                raise AlreadyRunning(self._home, pid if isinstance(pid, int) else None, holder.get("url"))
            pause(0.1)  # nothing signals the end of a lock
        self.describe(None)

    def describe(self, url: str | None) -> None:
        """Say where the stack answers, for a second start on this home."""
        self._file.truncate(0)
        self._file.write(json.dumps({"pid": os.getpid(), "url": url}))
        self._file.flush()

    def holder(self) -> dict[str, Any]:
        """Process number and address of the stack that holds, or last held, the home."""
        self._file.seek(0)
        with contextlib.suppress(ValueError):
            found = json.loads(self._file.read() or "{}")
            return found if isinstance(found, dict) else {}
        return {}

    def running_pid(self) -> int | None:
        """The process that holds the home now; None when nobody does. Closes the lock."""
        with self._file:
            if self._try():
                fcntl.flock(self.fd, fcntl.LOCK_UN)
                return None
            pid = self.holder().get("pid")
            return pid if isinstance(pid, int) else None

    def release(self) -> None:
        self._file.close()

    def _try(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def read_state(home: Path) -> dict[str, Any]:
    """The private state of the last start; empty on the first one."""
    try:
        found = json.loads((home / "state.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_state(home: Path, state: Mapping[str, Any]) -> None:
    """Replace the private state in one step."""
    write_private(home / "state.json", json.dumps(state, indent=1))


def write_private(path: Path, text: str) -> None:
    """Write a file only its owner can read, in one step (`mkstemp` makes it 0600)."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(name, path)


def remember_processes(home: Path, pids: Iterable[int]) -> None:
    """Note what runs, so that the next start can stop what outlived both supervisor and reaper."""
    born = {str(pid): start_time(pid) for pid in pids}
    write_state(home, {**read_state(home), "processes": born})


def leftovers(home: Path) -> list[int]:
    """Processes of the last stack that still run; the start time tells them from later processes with the same number."""
    noted = read_state(home).get("processes", {})
    return [int(pid) for pid, born in noted.items() if born is not None and start_time(int(pid)) == born and is_running(int(pid))]
