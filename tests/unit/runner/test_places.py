"""A runner that cannot be started leaves nothing behind: no folder, no user id that is held, no descriptor."""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from distill import scratch
from distill.relay import Relay
from distill.rollouts.spawn import spawn
from distill.sandbox import Limits
from distill.sandbox.files import of_interpreter
from distill.sandbox.rungs import Landlock


def open_files() -> set[str]:
    """Where each leads, and not those of threads, which come and go."""
    found = set[str]()
    for each in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{each} {os.readlink(f'/proc/self/fd/{each}')}")
        except FileNotFoundError:
            continue
    return found


@contextmanager
def no_more_than(free: int) -> Iterator[None]:
    """So many files may still be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(free)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, hard))
    filling = list[int]()
    try:
        while True:
            try:
                filling.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        for each in held:
            os.close(each)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in filling:
            os.close(each)


def doors_are_closed() -> None:
    for thread in threading.enumerate():
        if thread.name == "runner-door":
            thread.join(10)


def _disk_is_full(**_: object) -> str:
    raise OSError(28, "No space left on device")


def test_nothing_is_held_when_there_is_no_room_for_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, a user id was claimed for it before."""
    scratch.make_folder("other")
    before = open_files()
    monkeypatch.setattr("distill.scratch.tempfile.mkdtemp", _disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        spawn(sys.executable, Relay().connections(), Limits(), rung=Landlock())
    assert open_files() == before


def test_nothing_is_left_when_no_more_files_may_be_opened() -> None:
    """Wherever on the way the last one was opened."""
    top = scratch.make_folder("other").parent
    of_interpreter(sys.executable)  # it is asked once
    before, homes = open_files(), set(top.iterdir())
    for free in range(1, 6):
        with no_more_than(free), pytest.raises(OSError, match="Too many open files"):
            spawn(sys.executable, Relay().connections(), Limits(), rung=Landlock())
        doors_are_closed()
        assert (free, open_files(), set(top.iterdir())) == (free, before, homes)
