"""Start runner processes with nothing of ours in them: a scrubbed environment, a home of their own, limits, a process tree of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from distill import processes, sandbox
from distill.processes import End, Tree
from distill.relay import RunnerConnections
from distill.rollouts.door import Door
from distill.sandbox import Cell, Limits, Rung
from stillhouse_programs.door import DOOR_VARIABLE
from stillhouse_programs.spec import REFERENCES_VARIABLE

if sys.platform != "win32":
    import resource

_LAST_BREATH_SECONDS = 5.0


@dataclass
class Child:
    """A started runner with all that its program started, the place that it is locked into, and its way to the relay."""

    tree: Tree
    cell: Cell
    door: Door
    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]

    def end(self, *, at_once: bool) -> End:
        """Kill the whole tree and collect it. Not `at_once`: it seems to end by itself, and how is worth a moment."""
        end = None if at_once else self.tree.wait(_LAST_BREATH_SECONDS)
        end = end or self.tree.end()
        with suppress(OSError):
            self.stdin.close()
        return end

    @property
    def is_overfull(self) -> bool:
        return self.cell.is_overfull(self.tree.members)

    @property
    def takes_too_much_memory(self) -> bool:
        return self.cell.takes_too_much(self.tree.members())

    def close(self) -> None:
        """Take away, once it has ended, what it was given."""
        self.door.close()
        self.cell.close()

    @property
    def home(self) -> Path:
        return self.cell.home


def spawn(
    python: str,
    connections: RunnerConnections,
    limits: Limits,
    references: Sequence[str] = (),
    rung: Rung | None = None,
    owner: Mapping[str, str] | None = None,
) -> Child:
    """A fresh runner under the interpreter of its runtime; it may import the packages of `references`. `owner`: whose it is, for the log.

    Raises OSError.
    """
    with ExitStack() as undo:
        cell = sandbox.make(rung, python, ["-I", "-m", "stillhouse_programs.runner"], limits)
        undo.callback(cell.close)
        door = Door(connections, owner or {})
        undo.callback(door.close)
        told = {DOOR_VARIABLE: str(door.theirs.fileno()), "DSPY_CACHEDIR": str(cell.home), REFERENCES_VARIABLE: ",".join(references)}
        tree = processes.start(
            cell.command,
            {**cell.environment(), **told},
            cwd=cell.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[door.theirs.fileno()],
            is_wrapped=rung is not None,
        )
        undo.pop_all()
    if rung is None:
        _limit(tree.pid, limits)
    door.theirs.close()
    assert tree.stdin is not None and tree.stdout is not None and tree.stderr is not None  # noqa: S101, PT018 - for the type checker
    return Child(tree, cell, door, tree.stdin, tree.stdout, tree.stderr)


def _limit(pid: int, limits: Limits) -> None:
    """Outside of a sandbox they are set from outside, before the runner has read its first request; only Linux can."""
    if not sys.platform.startswith("linux"):
        return
    wanted = limits.by_name()
    del wanted["RLIMIT_NPROC"]  # it would count all that this user runs
    for name, value in wanted.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with suppress(ProcessLookupError):
            resource.prlimit(pid, kind, (allowed, allowed))
