"""When the embedded PostgreSQL is taken to be ready."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from stack.postgres import accepts_connections


class Watched:
    """Its process is not looked at."""

    process = None


WATCHED: Any = Watched()


def pid_file(folder: Path, pid: int, status: str) -> Path:
    path = folder / "postmaster.pid"
    path.write_text(f"{pid}\n/data\n1700000000\n5432\n/run\n127.0.0.1\n  123 456\n{status}\n")
    return path


def test_a_server_that_says_so_is(tmp_path: Path) -> None:
    assert accepts_connections(pid_file(tmp_path, os.getpid(), "ready   "))(WATCHED)
    assert not accepts_connections(pid_file(tmp_path, os.getpid(), "starting"))(WATCHED)
    assert not accepts_connections(tmp_path / "none")(WATCHED)


def test_what_a_killed_server_left_is_not_believed(tmp_path: Path) -> None:
    """Its successor writes the file anew only after a while: it has to recover first."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not accepts_connections(pid_file(tmp_path, gone.pid, "ready   "))(WATCHED)
