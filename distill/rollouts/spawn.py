"""Start runner processes with nothing of ours in them: a scrubbed environment, a home of their own, limits, a session of their own.

All are started from one long-lived thread: on Linux a runner asks to be killed when its parent *thread* ends, and threads of a pool end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stillhouse_programs.spec import REFERENCES_VARIABLE

if sys.platform != "win32":
    import resource

_MEGABYTE = 1024 * 1024
_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class RunnerLimits:
    """What one runner may use. `address_space_mb` counts reserved memory, thread stacks included, so it is generous."""

    address_space_mb: int = 16 * 1024
    open_files: int = 8192
    file_size_mb: int = 256


@dataclass
class Child:
    """A started runner and the folder that is its home."""

    process: subprocess.Popen[bytes]
    home: Path

    def end(self, wait_seconds: float = 5.0) -> None:
        """Kill the whole process group and collect it; may be called twice."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(wait_seconds)
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        shutil.rmtree(self.home, ignore_errors=True)


@cache
def _spawner() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "runner-spawner")


def spawn(python: str, relay_socket: str, limits: RunnerLimits, references: Sequence[str] = ()) -> Child:
    """A fresh runner under the interpreter of its runtime; it may import the packages of `references`. Raises OSError."""
    return _spawner().submit(_spawn, python, relay_socket, limits, references).result()


def _spawn(python: str, relay_socket: str, limits: RunnerLimits, references: Sequence[str]) -> Child:
    home = Path(tempfile.mkdtemp(prefix="stillhouse-runner-"))
    command = [python, "-I", "-m", "stillhouse_programs.runner", "--parent", str(os.getpid())]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(home, relay_socket, references),
            cwd=home,
            start_new_session=True,
        )
    except OSError:
        shutil.rmtree(home, ignore_errors=True)
        raise
    _limit(process.pid, limits)
    return Child(process, home)


def _environment(home: Path, relay_socket: str, references: Sequence[str]) -> dict[str, str]:
    folder = str(home)
    return {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "HOME": folder,
        "TMPDIR": folder,
        "DSPY_CACHEDIR": folder,
        "STILLHOUSE_RELAY_SOCKET": relay_socket,
        REFERENCES_VARIABLE: ",".join(references),
    }


def _limit(pid: int, limits: RunnerLimits) -> None:
    """Set from outside, before the runner has read its first request; only Linux can."""
    if not sys.platform.startswith("linux"):
        return
    wanted = {
        resource.RLIMIT_AS: limits.address_space_mb * _MEGABYTE,
        resource.RLIMIT_FSIZE: limits.file_size_mb * _MEGABYTE,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with suppress(ProcessLookupError):
            resource.prlimit(pid, kind, (allowed, allowed))
