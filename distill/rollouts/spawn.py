"""Start runner processes with nothing of ours in them: a scrubbed environment, a home of their own, limits, a process tree of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from distill import processes, scratch
from distill.processes import End, Tree
from stillhouse_programs.spec import REFERENCES_VARIABLE

if sys.platform != "win32":
    import resource

_MEGABYTE = 1024 * 1024
_PATH = "/usr/local/bin:/usr/bin:/bin"
_LAST_BREATH_SECONDS = 5.0


@dataclass(frozen=True)
class RunnerLimits:
    """What one runner may use. `address_space_mb` counts reserved memory, thread stacks included, so it is generous."""

    address_space_mb: int = 16 * 1024
    open_files: int = 8192
    file_size_mb: int = 256


@dataclass
class Child:
    """A started runner with all that its program started, and the folder that is its home."""

    tree: Tree
    home: Path
    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]

    def end(self, *, at_once: bool) -> End:
        """Kill the whole tree and collect it; may be called twice. Not `at_once`: it seems to end by itself, and how is worth a moment."""
        end = None if at_once else self.tree.wait(_LAST_BREATH_SECONDS)
        end = end or self.tree.end()
        with suppress(OSError):
            self.stdin.close()
        shutil.rmtree(self.home, ignore_errors=True)
        return end


def spawn(python: str, relay_socket: str, limits: RunnerLimits, references: Sequence[str] = ()) -> Child:
    """A fresh runner under the interpreter of its runtime; it may import the packages of `references`. Raises OSError."""
    home = scratch.make_folder("runner")
    try:
        tree = processes.start(
            [python, "-I", "-m", "stillhouse_programs.runner"],
            _environment(home, relay_socket, references),
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError:
        shutil.rmtree(home, ignore_errors=True)
        raise
    _limit(tree.pid, limits)
    assert tree.stdin is not None and tree.stdout is not None and tree.stderr is not None  # noqa: S101, PT018 - for the type checker
    return Child(tree, home, tree.stdin, tree.stdout, tree.stderr)


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
