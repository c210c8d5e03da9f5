"""A command and all that comes of it, on real processes: where a process group would leave something behind, nothing is left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from distill import processes
from distill.processes import Tree, start

LIMIT = 60.0
FAMILY = """
import os, pathlib, signal, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
deaf = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); open(sys.argv[1], 'w').close(); signal.pause()"
def leave(name):  # a session of its own, and no parent: its own has ended
    if os.fork() == 0:
        os.setsid()
        child = subprocess.Popen([sys.executable, "-c", deaf, str(folder / f"{name}.deaf")], start_new_session=True)
        (folder / name).write_text(str(child.pid))
        os._exit(0)
    os.wait()
leave("one")
leave("two")
while len(list(folder.glob("*.deaf"))) < 2: time.sleep(0.01)
print("ready", flush=True)
"""
STAYS = FAMILY + "signal.pause()\n"
ENDS = FAMILY + "sys.exit(5)\n"
WORKER = """
import sys
from distill.processes import start
tree = start([sys.executable, "-c", sys.argv[2], sys.argv[1]], {})
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Path]:
    """A folder in which each grandchild writes its number; whatever a broken guard leaves is removed."""
    folder = tmp_path / "family"
    folder.mkdir()
    yield folder
    for child in members(folder):
        child.kill()


def members(folder: Path) -> list[psutil.Process]:
    """The grandchildren that are alive."""
    found = [int(place.read_text()) for place in folder.iterdir() if place.suffix == ""]
    assert len(found) == 2
    alive = [psutil.Process(pid) for pid in found if psutil.pid_exists(pid)]
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def begin(script: str, folder: Path) -> Tree:
    tree = start([sys.executable, "-c", script, str(folder)], dict(os.environ), stdout=subprocess.PIPE)
    assert tree.stdout is not None
    with tree.stdout as stdout:
        assert stdout.readline() == b"ready\n"
    return tree


class TestManyFiles:
    def test_a_worker_with_more_open_files_than_select_can_count(self) -> None:
        """A call in flight holds two of them, and a worker may have hundreds."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 4096, hard))
        held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
        try:
            end = start([sys.executable, "-c", "import sys, time; time.sleep(0.2); sys.exit(5)"], dict(os.environ)).wait(LIMIT)
        finally:
            for each in held:
                os.close(each)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert end is not None
        assert (end.code, end.killed) == (5, False)


class TestWhatIsLeft:
    def test_nothing_after_a_kill(self, family: Path) -> None:
        tree = begin(STAYS, family)
        assert len(members(family)) == 2
        end = tree.end()
        assert (end.signal, end.killed, end.out_of_memory) == (signal.SIGKILL, True, False)
        assert members(family) == []

    def test_nothing_after_the_command_has_ended_by_itself(self, family: Path) -> None:
        end = begin(ENDS, family).wait(LIMIT)
        assert end is not None
        assert (end.code, end.signal, end.killed) == (5, None, False)
        assert end.peak_memory_bytes > 1_000_000
        assert members(family) == []

    def test_nothing_after_somebody_else_killed_the_command(self, family: Path) -> None:
        tree = begin(STAYS, family)
        os.kill(tree.pid, signal.SIGKILL)
        end = tree.wait(LIMIT)
        assert end is not None
        assert (end.code, end.signal, end.killed) == (None, signal.SIGKILL, False)
        assert members(family) == []

    def test_nothing_after_the_guard_itself_was_killed(self, family: Path) -> None:
        tree = begin(STAYS, family)
        psutil.Process(tree.pid).parent().kill()
        end = tree.wait(LIMIT)
        assert end is not None
        assert end.signal == signal.SIGKILL
        assert members(family) == []

    def test_nothing_after_a_guard_that_is_stopped(self, family: Path) -> None:
        tree = begin(STAYS, family)
        psutil.Process(tree.pid).parent().suspend()
        assert tree.end(seconds=0.1).killed
        assert members(family) == []

    def test_nothing_after_the_worker_was_killed(self, family: Path) -> None:
        command = [sys.executable, "-c", WORKER, str(family), STAYS]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            assert sorted(worker.stdout.readline() for _ in range(2)) == [b"ready\n", b"started\n"]
            below = psutil.Process(worker.pid).children(recursive=True)
            assert len(below) == 4
            worker.kill()
        _, alive = psutil.wait_procs(below, timeout=LIMIT)
        assert alive == []


class TestSignals:
    def test_reach_the_command_alone_and_its_exit_code_comes_back(self, tmp_path: Path) -> None:
        script = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); print('ready', flush=True); signal.pause()"
        tree = begin(script, tmp_path)
        tree.signal(signal.SIGTERM)
        end = tree.wait(LIMIT)
        assert end is not None
        assert (end.code, end.killed) == (9, False)

    def test_the_command_can_be_killed_by_a_broken_pipe_as_any_other(self) -> None:
        tree = start(["/bin/sh", "-c", "kill -PIPE $$; echo still here"], {"PATH": os.environ["PATH"]})
        end = tree.wait(LIMIT)
        assert end is not None
        assert end.signal == signal.SIGPIPE


class TestStart:
    def test_a_command_that_is_not_there(self) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            start(["/nowhere/python"], {})

    def test_the_command_is_not_of_our_process_group(self, tmp_path: Path) -> None:
        tree = begin("import signal; print('ready', flush=True); signal.pause()", tmp_path)
        assert os.getpgid(tree.pid) == tree.pid != os.getpgid(0)
        tree.end()


class TestOutOfMemory:
    def test_a_kill_by_the_kernel_is_told_from_one_by_hand(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        kills = iter([3, 4])
        monkeypatch.setattr(processes, "_oom_kills", lambda: next(kills))
        tree = begin("import signal; print('ready', flush=True); signal.pause()", tmp_path)
        os.kill(tree.pid, signal.SIGKILL)
        end = tree.wait(LIMIT)
        assert end is not None
        assert end.out_of_memory
