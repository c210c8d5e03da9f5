"""Folders of a process go with it; those of one that was killed go when another starts."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = """
import signal, sys
from distill.scratch import make_folder
folder = make_folder("runner")
(folder / "prompt.txt").write_text("a customer's words")
print(folder.parent, flush=True)
if sys.argv[1] == "stay":
    signal.pause()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What its processes take for the system's temporary folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@contextmanager
def running() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    with subprocess.Popen([sys.executable, "-c", SCRIPT, "stay"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def another_starts() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT, "go"], check=True, capture_output=True)


def age(folder: Path) -> None:
    os.utime(folder, (0, 0))


def test_a_process_that_ends_leaves_nothing(place: Path) -> None:
    another_starts()
    assert list(place.iterdir()) == []


def test_what_a_killed_one_left_goes_and_what_a_living_one_has_stays(place: Path) -> None:
    with running() as (killed, left), running() as (_, held):
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (next(left.iterdir()) / "prompt.txt").exists()
        age(left)
        age(held)
        another_starts()
        assert list(place.iterdir()) == [held]


def test_a_young_folder_may_be_about_to_be_locked(place: Path) -> None:
    with running() as (killed, left):
        killed.kill()
        killed.wait()
        another_starts()
        assert left.exists()
