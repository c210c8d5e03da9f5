"""Virtual environments of their own, as users have them: what was installed into them, and nothing of this checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def uv(*arguments: str) -> str:
    """What uv prints. Packages come from its cache when a run before has fetched them."""
    done = subprocess.run([Path(sys.executable).with_name("uv"), "--quiet", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fresh(place: Path, python: str) -> Path:
    """The interpreter of a new and empty environment."""
    uv("venv", "--python", python, str(place))
    return place / "bin" / "python"


def install_ours(python: Path, sources: Path, *wanted: str) -> None:
    """Install `client[extras]`, `programs` and others in the versions of constraints.txt.

    Our own are built to wheels from copies in `sources`, as an index would get them.
    """
    for name in ("client", "programs"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("*.egg-info", "build"), dirs_exist_ok=True)
    paths = [str(sources / each) if each.startswith(("client", "programs")) else each for each in wanted]
    uv("pip", "install", "--python", str(python), "--constraint", str(ROOT / "constraints.txt"), *paths)
