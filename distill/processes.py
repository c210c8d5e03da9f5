"""Children of a worker, each with all that it starts: ended as a whole, and never outliving the worker.

``start(command, environment)`` gives a Tree. Beside it runs a *guard* (distill/guard.py), which ends the whole tree when the command ends,
when `Tree.kill` is called, and when this process dies, however it dies. It stays in this process's hands even where a command makes
sessions of its own or lets its children outlive it.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

GUARD = Path(__file__).with_name("guard.py")
MARK = "STILLHOUSE_TREE"
"""In the environment of every process of a tree: by it they are found where the guard itself was killed."""
START_SECONDS = 60.0
_BY_SIGNAL = 128
_SIGNALS = frozenset(signal.valid_signals())
Stream = int | IO[bytes] | None


@dataclass(frozen=True)
class End:
    """How a command ended: `code`, or the `signal` that killed it. `killed`: this process asked for it.

    `out_of_memory`: the kernel killed it because memory had run out. `peak_memory_bytes` is the command's own, 0 where it is not known.
    """

    code: int | None
    signal: int | None
    killed: bool
    out_of_memory: bool
    peak_memory_bytes: int


class Tree:
    """A started command and whatever comes of it. Thread-safe."""

    def __init__(self, guard: subprocess.Popen[bytes], lifeline: socket.socket, pid: int, mark: str, *, is_wrapped: bool = False) -> None:
        self.pid = pid
        """The command's own process id, and its process group's."""
        self.stdin, self.stdout, self.stderr = guard.stdin, guard.stdout, guard.stderr
        self._guard = guard
        self._lifeline = lifeline
        self._mark = mark
        self._is_wrapped = is_wrapped
        self._killed = False
        self._end: End | None = None
        self._lock = threading.Lock()
        self._oom_kills = _oom_kills()

    def members(self) -> list[int]:
        """The ids of its processes, as they are now: whoever loses its parent becomes the guard's child."""
        try:
            return [each.pid for each in psutil.Process(self._guard.pid).children(recursive=True)]
        except psutil.Error:
            return []

    def signal(self, number: int) -> None:
        """To the command alone, not to what it started."""
        with self._lock, suppress(OSError):
            self._lifeline.send(bytes([number]))

    def kill(self) -> None:
        """End the whole tree; returns at once."""
        with self._lock:
            self._killed = True
            with suppress(OSError):
                self._lifeline.shutdown(socket.SHUT_WR)

    def wait(self, timeout: float | None = None) -> End | None:
        """How it ended, once nothing of the tree is left; None if that has not happened after `timeout` seconds."""
        try:
            self._guard.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return self._ended()

    def end(self, seconds: float = 10.0) -> End:
        """Kill it and wait. A guard that does not do its work in time is killed with everything that bears the tree's mark."""
        self.kill()
        if (end := self.wait(seconds)) is not None:
            return end
        self._guard.kill()
        self._guard.wait()
        return self._ended()

    def _ended(self) -> End:
        with self._lock:
            if self._end is None:
                self._end = self._judge()
            return self._end

    def _judge(self) -> End:
        report = _read(self._lifeline)
        self._lifeline.close()
        if "status" not in report:  # the guard was killed before its work was done
            _sweep(self._mark)
        code = os.waitstatus_to_exitcode(report["status"]) if "status" in report else self._guard.returncode
        if self._is_wrapped and code - _BY_SIGNAL in _SIGNALS:
            code = _BY_SIGNAL - code
        out_of_memory = code == -signal.SIGKILL and not self._killed and _oom_kills() > self._oom_kills
        unit = 1 if sys.platform == "darwin" else 1024
        own, number = (code, None) if code >= 0 else (None, -code)
        return End(own, number, self._killed, out_of_memory, unit * report.get("peak_kb", 0))


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    cwd: Path | None = None,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
    pass_fds: Sequence[int] = (),
    is_wrapped: bool = False,
) -> Tree:
    """Start a command in a session of its own, from any thread. Raises OSError if it cannot be started.

    It inherits `pass_fds` under their numbers. `is_wrapped`: it runs another one, and tells a signal that killed that as 128 and its
    number, as shells do.
    """
    ours, theirs = socket.socketpair()
    mark = secrets.token_hex(16)
    with ExitStack() as undo, theirs:
        undo.callback(ours.close)
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), str(theirs.fileno()), *command],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env={**environment, MARK: mark},
            pass_fds=(theirs.fileno(), *pass_fds),
            start_new_session=True,
        )
        undo.pop_all()
    ours.settimeout(START_SECONDS)
    begun = _first_line(ours)
    if "pid" in begun:
        return Tree(guard, ours, begun["pid"], mark, is_wrapped=is_wrapped)
    ours.close()
    guard.kill()
    guard.wait()
    number = begun.get("errno", 0)
    raise OSError(number, os.strerror(number) if number else "its guard did not start", command[0])


def _first_line(lifeline: socket.socket) -> dict[str, int]:
    """Byte by byte: what comes after it is the report."""
    line = b""
    with suppress(OSError):
        while not line.endswith(b"\n") and (byte := lifeline.recv(1)):
            line += byte
    return _parsed(line)


def _read(lifeline: socket.socket) -> dict[str, int]:
    """The report of a guard that has ended; empty if it left none."""
    line = b""
    with suppress(OSError):
        lifeline.settimeout(1.0)
        while chunk := lifeline.recv(512):
            line += chunk
    return _parsed(line)


def _parsed(line: bytes) -> dict[str, int]:
    content: Any = json.loads(line) if line.endswith(b"\n") else {}
    return {str(name): int(value) for name, value in content.items()}


def _sweep(mark: str) -> None:
    """Kill all processes of this user that bear a tree's mark, again until there is none: one may just be starting another."""
    while marked := [process for process in psutil.process_iter() if _bears(process, mark)]:
        for process in marked:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(marked, timeout=1.0)


def _bears(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, OSError):
        return False


def _oom_kills() -> int:
    """How many processes the kernel has killed for want of memory: of this container or service, else of the machine; 0 if unknown."""
    with suppress(OSError, ValueError, KeyError):
        group = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].split("\n")[0].lstrip("/")
        return _counter(Path("/sys/fs/cgroup", group, "memory.events"))
    with suppress(OSError, ValueError, KeyError):
        return _counter(Path("/proc/vmstat"))
    return 0


def _counter(place: Path) -> int:
    return int(dict(line.split() for line in place.read_text().splitlines())["oom_kill"])
