"""A helper process that cleans up after a supervisor that was killed (`kill -9`, out of memory).

It reads one JSON object a line from its standard input:
{"hold": [pid, signal, grace, tier]}, {"drop": pid}, {"remove": path}, {"bye": true}.
The end of the input without "bye" means that the supervisor is gone; then all that is held is stopped in order and the paths are removed.
It inherits the home's lock, so that the next start waits until everything is gone.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import TextIO

from stack.processes import Leash, stop_in_order


class Reaper:
    """The supervisor's end: tells the helper process what to stop if the supervisor dies."""

    def __init__(self, lock_fd: int | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "stack.reaper"],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=() if lock_fd is None else (lock_fd,),
        )
        self._turn = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def hold(self, leash: Leash) -> None:
        """Stop this child too, should the supervisor die."""
        self._say({"hold": [leash.pid, leash.stop_signal, leash.grace_seconds, leash.tier]})

    def drop(self, pid: int) -> None:
        """The child has ended: its number may soon belong to another process."""
        self._say({"drop": pid})

    def remove(self, path: str) -> None:
        """Remove this folder at the end, should the supervisor die."""
        self._say({"remove": path})

    def dismiss(self) -> None:
        """Everything is stopped; the helper ends without doing anything."""
        self._say({"bye": True})
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait(timeout=10)

    def _say(self, message: dict[str, object]) -> None:
        # A helper that somebody killed is no reason to stop the stack.
        with self._turn, contextlib.suppress(BrokenPipeError):
            if self._process.stdin and self._process.poll() is None:
                self._process.stdin.write(json.dumps(message) + "\n")
                self._process.stdin.flush()


def listen(lines: TextIO) -> None:
    """Remember what is held until the input ends, then clean up unless told goodbye."""
    held: dict[int, Leash] = {}
    paths: list[str] = []
    for line in lines:
        message = json.loads(line)
        if "hold" in message:
            leash = Leash(*message["hold"])
            held[leash.pid] = leash
        elif "drop" in message:
            held.pop(message["drop"], None)
        elif "remove" in message:
            paths.append(message["remove"])
        else:
            return
    stop_in_order(list(held.values()))
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def main() -> None:
    """Run the helper: only the end of the input ends it, never a signal meant for the supervisor's terminal."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    listen(sys.stdin)


if __name__ == "__main__":
    main()
