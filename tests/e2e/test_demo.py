"""`make demo` at a small size, twice on one home: the whole path on the packaged base model, and what the second run asks the teacher."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stack.network import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
SIZE = ("--train", "40", "--held-out", "20", "--rollouts", "2")


@pytest.fixture
def home() -> Iterator[Path]:
    """A home without data, but with the questions where this checkout has fetched them already."""
    with tempfile.TemporaryDirectory(prefix="stillhouse-demo-") as folder:
        fetched = ROOT / ".stillhouse/downloads"
        if fetched.is_dir():
            shutil.copytree(fetched, Path(folder) / "downloads")
        yield Path(folder)


def demo(home: Path) -> dict[str, Any]:
    """Run it to its end, and return its report."""
    command = [sys.executable, "-m", "examples.trec.demo", *SIZE, "--home", str(home), "--port", str(free_port())]
    environment = {**os.environ, "STILLHOUSE_HOME": str(home)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "A fresh process loaded the artifact" in done.stdout
    report: dict[str, Any] = json.loads((home / "demo-report.json").read_text())
    return report


def test_a_second_run_asks_the_teacher_nothing(home: Path) -> None:
    first, second = demo(home), demo(home)
    assert 40 + 20 <= first["teacher_calls"] <= 40 * 2 + 20
    assert second["teacher_calls"] == 0
    assert second["teacher"]["score"] == first["teacher"]["score"]
    assert first["compiled"]["n"] == second["compiled"]["n"] == 20
