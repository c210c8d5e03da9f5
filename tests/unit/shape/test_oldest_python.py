"""`make check` refuses in the client what Python 3.10 has not: a lint that nothing breaks is no lint."""

import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PLANTS = {
    "a name of typing": "from typing import Self\n\n__all__ = ['Self']\n",
    "a name of asyncio": "import asyncio\n\n\nasync def run() -> None:\n    async with asyncio.TaskGroup():\n        pass\n",
    "a module": "import tomllib\n\nprint(tomllib)\n",
    "syntax": "try:\n    pass\nexcept* ValueError:\n    pass\n",
}


def recipe(*words: str) -> list[str]:
    """The one command of `make check` that has these words."""
    lines = subprocess.run(["make", "--dry-run", "check"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    (command,) = [split for line in lines if set(words) <= set(split := shlex.split(line))]
    return command


def complaints(command: list[str], text: str = "") -> str:
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
def test_what_the_library_has_not(tmp_path: Path) -> None:
    for number, text in enumerate(PLANTS.values()):
        (tmp_path / f"plant_{number}.py").write_text(text)
    (tmp_path / "kept.py").write_text("from typing_extensions import Self\n\n__all__ = ['Self']\n")
    command = recipe("--python-version", "3.10", "client/src")
    found = complaints(
        [each for each in command if each not in ("client/src", "programs/src")] + ["--cache-dir", "/dev/null", str(tmp_path)]
    )
    assert 'Module "typing" has no attribute "Self"' in found
    assert 'Module has no attribute "TaskGroup"' in found
    assert 'module named "tomllib"' in found
    assert "kept.py" not in found


@pytest.mark.parametrize("folder", ["client/src/stillhouse", "programs/src/stillhouse_programs"])
def test_what_the_grammar_has_not(folder: str) -> None:
    command = recipe("check", "--quiet", ".")
    found = complaints([*command[:-1], "--stdin-filename", f"{folder}/plant.py", "-"], PLANTS["syntax"])
    assert "Cannot use `except*` on Python 3.10" in found
