"""`stillhouse-server up` in a process of its own, which a test may interrupt or kill, whole or in part, and start again on its home.

server = ServerProcess(home, {"STILLHOUSE_LMHOST__BASE_MODEL": "local/tiny"})
server.start()
server.kill_part("app.serve")   # its watchman starts it again
server.kill_everything()
server.start()
server.interrupt()                        # Ctrl-C
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from stack.home import leftovers
from stack.network import free_port
from stack.processes import descendants, is_running, send

API = "app.serve"
START_SECONDS = 240.0


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """A bounded wait for other processes, which cannot signal this one. Raises AssertionError."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s: {what}"
        pause.wait(0.01)


def processes_with(variable: str, value: str) -> list[int]:
    """The running processes that were started with this variable, wherever in the tree they are now; but for those that have since
    written their own title over their environment, as Valkey and Celery do."""
    found, wanted = [], f"{variable}={value}".encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and is_running(int(entry.name)) and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


class ServerProcess:
    """A server on one home and one port.

    Args:
        home: folder of the stack.
        environment: added to this process's.
    """

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home, self.port = home.resolve(), free_port()
        self._environment = {**os.environ, **environment, "STILLHOUSE_HOME": str(self.home)}
        self._process: subprocess.Popen[bytes] | None = None
        self._said = home.with_suffix(".said")

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        """What all starts have printed."""
        return self._said.read_text(errors="replace")

    def start(self) -> None:
        """Until it says that it is ready."""
        command = [sys.executable, "-m", "stack.cli", "up", "--home", str(self.home), "--port", str(self.port)]
        with self._said.open("ab") as said:
            before = said.tell()
            self._process = subprocess.Popen(command, env=self._environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        process = self._process
        wait_until(lambda: "is ready" in self.said[before:] or process.poll() is not None, "no server is ready", START_SECONDS)
        assert process.poll() is None, self.said

    def setting(self, name: str) -> str:
        """A variable of the server's parts, such as DATABASE_URL; it may be another one after each start."""
        return str(json.loads((self.home / "state.json").read_text())["environment"][name])

    def processes(self) -> list[int]:
        """Everything of this home: supervisor, its helper, servers, parts, and their children."""
        parents = [*leftovers(self.home), *([self._process.pid] if self._process and self._process.poll() is None else [])]
        trees = [pid for parent in parents for pid in descendants(parent) if is_running(pid)]
        return sorted({*trees, *processes_with("STILLHOUSE_HOME", str(self.home))})

    def parts(self, words: str) -> list[int]:
        """The processes whose command line holds these words."""
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if words in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode():
                    found.append(pid)
        return found

    def kill_part(self, words: str) -> None:
        """`kill -9` of one part's process alone."""
        (pid,) = self.parts(words)
        send(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid), f"{words} outlived its kill")

    def kill_everything(self) -> None:
        """`kill -9` of every process at once; those that are being started at that moment follow."""
        assert self._process
        left = self.processes()
        send(self._process.pid, signal.SIGKILL)  # first, or it would start others in place of the dead
        while left:
            for pid in left:
                send(pid, signal.SIGKILL)
            left = self.processes()
        self._process.wait()

    def interrupt(self, seconds: float = 90.0) -> int:
        """Ctrl-C, and the exit code. Raises AssertionError when any process that ran before still runs."""
        assert self._process
        running = self.processes()
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(seconds)
        assert not [pid for pid in {*running, *self.processes()} if is_running(pid)], self.said
        return code

    def stop(self) -> None:
        """However it stands, nothing of it is left."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(60)
        if self._process is not None:
            self.kill_everything()
