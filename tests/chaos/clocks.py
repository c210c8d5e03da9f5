"""A wall clock that jumps: of dispatcher, workers and API, while PostgreSQL's goes on. The monotonic clock goes on."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def preloaded(told: Path) -> dict[str, str]:
    """The variables of a process whose clock is off by what the file says. Raises RuntimeError where the program `faketime` is missing."""
    program = shutil.which("faketime")
    if program is None:
        raise RuntimeError("faketime is not installed: apt-get install faketime, or the package of that name elsewhere")
    command = [program, "-m", "-f", "+0s", "printenv", "LD_PRELOAD"]
    library = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    jump(told, 0)
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(told),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def jump(told: Path, seconds: int) -> None:
    """From the next second on the processes' clocks are so far off."""
    draft = told.with_name("draft")
    draft.write_text(f"{seconds:+d}s\n")
    draft.rename(told)
