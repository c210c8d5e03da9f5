"""The supervisor with stand-in parts and real servers."""

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from stack.console import Silent
from stack.crew import Crew
from stack.errors import AlreadyRunning, PartFailed, PortTaken
from stack.network import answers
from stack.parts import Part, at_once, line
from stack.plan import Layout
from stack.processes import is_running
from stack.supervisor import Stack
from stack.watch import Patience
from tests.support import standins

TALKS_AT_THE_END = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("ready", flush=True)
signal.sigwait([signal.SIGTERM])
print(*(f"line {number}" for number in range(500)), sep="\\n")
"""


class Notes(Silent):
    """Remembers the changes of state."""

    def __init__(self) -> None:
        self.states: list[tuple[str, str, str]] = []

    def state(self, name: str, state: str, detail: str = "") -> None:
        self.states.append((name, state, detail))

    def of(self, name: str) -> list[str]:
        return [state for part, state, _ in self.states if part == name]


Planner = Callable[[Layout], Sequence[Part]]


def read_slowly(_name: str, _line: str) -> None:
    """A terminal that does not keep up."""
    time.sleep(0.002)


def make(home: Path, planner: Planner = standins.parts_of, *, fast: bool = True, port: int | None = None) -> Stack:
    return Stack(home, fast=fast, port=port, planner=planner, preparer=standins.prepared)


def processes_of(home: Path) -> list[int]:
    """Every process that was started with this home, wherever in the tree it is now; the helper that cleans up not counted."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and is_running(int(entry.name)) and f"={home}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    """A bounded wait for another process, which cannot signal this one."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def home(stack_home: Path) -> Path:
    return stack_home


class TestStart:
    def test_every_part_is_ready_and_the_api_answers(self, home: Path) -> None:
        with make(home) as stack:
            assert stack.crew
            assert [child.part.name for child in stack.crew.children()] == ["postgres", "valkey", "lm-host", "worker-train", "api"]
            assert answers(f"{stack.base_url}/livez", timeout_seconds=60)

    def test_credentials_are_private(self, home: Path) -> None:
        with make(home) as stack:
            file = home / "credentials.json"
            assert json.loads(file.read_text()) == {"base_url": stack.base_url, "api_key": "sh_test_key", "project": "default"}
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert stat.S_IMODE((home / "state.json").stat().st_mode) == 0o600

    def test_full_logs_are_in_the_home(self, home: Path) -> None:
        with make(home):
            pass
        assert "worker takes work" in (home / "logs" / "worker-train.log").read_text()

    def test_a_part_that_ends_at_once_is_named_with_its_log_and_nothing_is_left(self, home: Path) -> None:
        stack = make(home, lambda layout: [*standins.parts_of(layout), standins.dying("dispatcher", line("takes work"))])
        with pytest.raises(PartFailed) as failed:
            stack.start()
        assert failed.value.name == "dispatcher"
        assert "exit code 3" in str(failed.value)
        assert "no model in the shop" in str(failed.value)
        assert not processes_of(home)

    def test_a_taken_port_is_named_with_the_way_out(self, home: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(PortTaken, match=rf"port {port} .*--port"):
                make(home, port=port).start()

    def test_a_second_start_says_where_the_first_one_answers(self, home: Path) -> None:
        with make(home) as first, pytest.raises(AlreadyRunning, match=re.escape(f"{first.base_url} (process {os.getpid()})")):
            make(home).start()

    def test_data_outlive_a_restart(self, home: Path) -> None:
        def connect(stack: Stack) -> psycopg.Connection:
            url = make_url(stack.layout.database_url).set(drivername="postgresql")
            return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)

        with make(home, fast=False) as first, connect(first) as connection:
            connection.execute("CREATE TABLE kept (n int)")
        with make(home, fast=False) as second, connect(second) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


class TestStop:
    def test_no_process_is_left_not_even_one_in_a_session_of_its_own(self, home: Path) -> None:
        with make(home):
            running = processes_of(home)
            grandchild = int(re.findall(r"grandchild=(\d+)", (home / "logs" / "worker-train.log").read_text())[0])
            assert grandchild in running
        assert not processes_of(home)

    def test_the_api_stops_first_and_the_lm_host_last(self, home: Path) -> None:
        with make(home):
            pass
        assert (home / "journal").read_text().split() == ["api", "worker-train", "lm-host"]

    def test_a_second_stop_does_nothing(self, home: Path) -> None:
        stack = make(home)
        stack.start()
        stack.stop()
        assert stack.stop() == 0.0


_SUPERVISOR = """
    import pathlib, sys
    from stack.supervisor import Stack
    from tests.support import standins
    stack = Stack(pathlib.Path(sys.argv[1]), planner=standins.parts_of, preparer=standins.prepared)
    stack.start()
    print("started", stack.crew.reaper_pid, flush=True)
    stack.wait()
"""


class Supervised:
    """A supervisor in a process of its own."""

    def __init__(self, home: Path) -> None:
        root = str(Path(__file__).parents[3])
        environment = {**os.environ, "PYTHONPATH": root}
        self.process = subprocess.Popen(standins.python(_SUPERVISOR, home), stdout=subprocess.PIPE, text=True, cwd=root, env=environment)
        assert self.process.stdout
        word, reaper = self.process.stdout.readline().split()
        assert word == "started"
        self.reaper = int(reaper)
        self.running = set(processes_of(home)) - {self.process.pid}

    def left(self) -> list[int]:
        return [pid for pid in self.running if is_running(pid)]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture
def supervised(home: Path) -> Iterator[Supervised]:
    started = Supervised(home)
    yield started
    started.kill()


class TestKilled:
    def test_the_reaper_leaves_nothing_and_the_next_start_works(self, home: Path, supervised: Supervised) -> None:
        assert len(supervised.left()) > 4
        supervised.kill()
        with make(home, fast=False) as stack:  # waits for the reaper by the home's lock
            assert not supervised.left()
            assert answers(f"{stack.base_url}/livez", timeout_seconds=60)

    def test_a_start_after_the_loss_of_supervisor_and_reaper_stops_what_is_left(self, home: Path, supervised: Supervised) -> None:
        os.kill(supervised.reaper, signal.SIGKILL)
        wait_until(lambda: not is_running(supervised.reaper))
        supervised.kill()
        assert supervised.left()
        with make(home, fast=False):
            assert not supervised.left()


class TestWatch:
    def test_a_part_that_died_is_started_again(self, home: Path) -> None:
        notes = Notes()
        with Stack(home, reporter=notes, planner=standins.parts_of, preparer=standins.prepared) as stack:
            assert stack.crew
            stack.crew.kill_part("api")
            wait_until(lambda: notes.of("api")[-1] == "ready" and "restarting" in notes.of("api"))
            assert answers(f"{stack.base_url}/livez", timeout_seconds=60)

    def test_a_killed_database_comes_back_on_its_address(self, home: Path) -> None:
        notes = Notes()
        with Stack(home, reporter=notes, planner=standins.parts_of, preparer=standins.prepared) as stack:
            assert stack.crew
            stack.crew.kill_part("postgres")
            wait_until(lambda: notes.of("postgres")[-1] == "ready" and "restarting" in notes.of("postgres"))
            url = make_url(stack.layout.database_url).set(drivername="postgresql")
            with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_a_part_that_keeps_dying_ends_the_stack_with_its_log(self, home: Path) -> None:
        stack = Stack(
            home,
            planner=lambda layout: [*standins.parts_of(layout), standins.dying("dispatcher", at_once)],
            preparer=standins.prepared,
            patience=Patience(limit=3, first_delay_seconds=0.01),
        )
        with stack, pytest.raises(PartFailed) as failed:
            stack.wait()
        assert failed.value.name == "dispatcher"
        assert "3 times" in str(failed.value)
        assert "no model in the shop" in str(failed.value)

    def test_a_stopped_part_can_be_started_by_hand(self, home: Path) -> None:
        with make(home) as stack:
            assert stack.crew
            stack.crew.stop_part("api")
            assert not answers(f"{stack.base_url}/livez")
            stack.restart_part("api")
            assert answers(f"{stack.base_url}/livez", timeout_seconds=60)

    def test_what_a_stopped_part_said_last_is_in_its_log(self, home: Path) -> None:
        crew = Crew(home, os.environ, read_slowly)
        crew.wait_ready([crew.start(Part("talker", (sys.executable, "-c", TALKS_AT_THE_END), tier=2, ready=line("ready")))])
        crew.stop_part("talker")
        said = (home / "logs" / "talker.log").read_text()
        crew.stop()
        assert said.endswith("line 499\n")


class TestClosedFolder:
    def test_data_that_the_servers_user_cannot_reach_go_elsewhere_and_leave_with_a_fast_stack(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        with make(closed / "home") as stack:
            data = stack.data_folder
            assert (data / "PG_VERSION").exists()
        assert not data.exists() or data.is_relative_to(closed)

    def test_data_of_an_earlier_home_of_the_same_name_are_put_aside_whole(self, home: Path) -> None:
        with make(home) as stack:
            data = stack.data_folder
        (home / "state.json").unlink()  # with it the password is gone
        with make(home):
            pass
        aside = list(data.parent.glob("pg-of-an-earlier-home-*"))
        assert [(folder / "global" / "pg_control").exists() for folder in aside] == [True]


class TestOwnServers:
    def test_servers_named_in_the_environment_are_used_and_not_started(
        self, home: Path, database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with make(home, fast=False) as stack:
            assert stack.crew
            assert [child.part.name for child in stack.crew.children()] == ["lm-host", "worker-train", "api"]
            assert (stack.layout.database_url, stack.layout.redis_url) == (database, redis_url)
