"""What programs leave in their homes is measured and removed, whatever it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill import folders
from tests.security.whom import UID

MEGABYTE = 1 << 20


def nested(folder: Path, depth: int, name: str = "d") -> int:
    """The descriptor of the innermost of so many folders inside of each other."""
    opened = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=opened)
        inner = os.open(name, os.O_RDONLY, dir_fd=opened)
        os.close(opened)
        opened = inner
    return opened


def fill(name: str, size: int, below: int) -> None:
    with os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=below), "wb") as file:
        file.write(b"x" * size)


def as_its_owner(home: Path, code: str) -> str:
    """What it prints, run by the user that all of it belongs to: an ordinary one."""
    is_root = os.geteuid() == 0
    become = f"os.setgroups([]); os.setgid({UID}); os.setuid({UID})" if is_root else "pass"
    for place in (home, *home.rglob("*")) if is_root else ():
        os.chown(place, int(UID), int(UID))
    entered = f"os.chdir({str(home)!r}); {become}; home = pathlib.Path('.')"
    code = f"import os, pathlib; from distill import folders; {entered}; {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home"
    folder.mkdir()
    yield folder
    folders.remove(folder)  # pytest could not


class TestMeasured:
    def test_files_at_any_depth_are_counted(self, home: Path) -> None:
        inner = nested(home, 20)
        fill("much", 2 * MEGABYTE, inner)
        os.close(inner)
        assert folders.holds_more(home, MEGABYTE)
        assert not folders.holds_more(home, 3 * MEGABYTE)

    def test_empty_files_are_counted(self, home: Path) -> None:
        for at in range(100):
            (home / str(at)).touch()
        assert folders.holds_more(home, 300_000)

    @pytest.mark.parametrize(("depth", "name"), [(1200, "d"), (60, "d" * 200)])
    def test_folders_that_are_too_deep_are_too_much(self, home: Path, depth: int, name: str) -> None:
        inner = nested(home, depth, name)
        fill("much", 2 * MEGABYTE, inner)
        os.close(inner)
        assert folders.holds_more(home, MEGABYTE)

    @pytest.mark.parametrize("mode", [0o300, 0o100, 0])
    def test_closed_folders_are_opened(self, home: Path, mode: int) -> None:
        """By a user to whom modes mean something."""
        (home / "closed").mkdir()
        (home / "closed" / "much").write_bytes(b"x" * 2 * MEGABYTE)
        (home / "closed").chmod(mode)
        assert as_its_owner(home, "print(folders.holds_more(home, 1 << 20))") == "True"

    def test_one_that_is_gone_holds_nothing(self, home: Path) -> None:
        assert not folders.holds_more(home / "gone", 0)


class TestRemoved:
    @pytest.mark.parametrize(("depth", "name"), [(1200, "d"), (60, "d" * 200)])
    def test_however_deep_it_is(self, home: Path, depth: int, name: str) -> None:
        inner = nested(home, depth, name)
        fill("much", 10, inner)
        os.close(inner)
        folders.remove(home)
        assert not home.exists()

    @pytest.mark.parametrize("mode", [0o300, 0o500, 0])
    def test_closed_folders_go(self, home: Path, mode: int) -> None:
        for folder in (home / "closed", home / "closed" / "inner"):
            folder.mkdir()
            (folder / "file").touch()
        (home / "closed" / "inner").chmod(mode)
        (home / "closed").chmod(mode)
        as_its_owner(home, "folders.remove(home)")
        assert list(home.iterdir()) == []

    def test_where_a_link_leads_nothing_is_touched(self, home: Path, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "file").touch()
        (home / "link").symlink_to(tmp_path / "other")
        (home / "inner").mkdir()
        (home / "inner" / "link").symlink_to(tmp_path / "other")
        folders.remove(home)
        assert not home.exists()
        assert (tmp_path / "other" / "file").exists()

    def test_what_is_gone_is_no_fault(self, home: Path) -> None:
        folders.remove(home / "gone")
