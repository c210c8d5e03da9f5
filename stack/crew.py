"""The running parts of a stack: start them, wait until they are ready, stop them so that no process is left."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from stack.child import Child, Listener
from stack.errors import PartFailed
from stack.home import leftovers, remember_processes
from stack.parts import Part
from stack.processes import Leash, pause, stop_in_order
from stack.reaper import Reaper


class Crew:
    """Children by name. Thread-safe: a watching thread restarts parts while another may stop them all.

    Args:
        home: folder for logs and the list of processes.
        environment: of every part; a part adds its own.
        listener: called with (name, line) for each line of output, from threads.
        lock_fd: the home's lock, inherited by the reaper.
    """

    def __init__(self, home: Path, environment: Mapping[str, str], listener: Listener, lock_fd: int | None = None) -> None:
        self._home, self._environment, self._listener = home, environment, listener
        self._children: dict[str, Child] = {}
        self._turn = threading.RLock()
        self._stopping = threading.Event()
        stop_in_order([Leash(pid, signal.SIGTERM, 10, 0) for pid in leftovers(home)])
        self._reaper = Reaper(lock_fd)

    @property
    def stopping(self) -> threading.Event:
        """Set as soon as a stop was asked for."""
        return self._stopping

    @property
    def reaper_pid(self) -> int:
        """The helper process that cleans up should this one be killed."""
        return self._reaper.pid

    def children(self) -> list[Child]:
        with self._turn:
            return list(self._children.values())

    def child(self, name: str) -> Child:
        """Raises KeyError."""
        with self._turn:
            return self._children[name]

    def start(self, part: Part) -> Child:
        """Start a part, in place of one of the same name that has ended. Raises PartFailed when the stack is being stopped."""
        with self._turn:
            if self._stopping.is_set():
                raise PartFailed(part.name, "is not started: the stack is being stopped")
            if earlier := self._children.get(part.name):
                self._reaper.drop(earlier.pid)
            child = Child(part, self._environment, self._home / "logs", self._listener)
            self._reaper.hold(child.leash)
            self._children[part.name] = child
            remember_processes(self._home, [each.pid for each in self._children.values()])
            return child

    def clean_later(self, folders: Iterable[Path]) -> None:
        """Folders that the reaper removes, should the supervisor be killed."""
        for folder in folders:
            self._reaper.remove(str(folder))

    def wait_ready(self, children: Sequence[Child], announce: Callable[[Child, float], None] = lambda _child, _seconds: None) -> None:
        """Until all are ready; `announce(child, seconds)` as each one is. Raises PartFailed."""
        waiting = list(children)
        # A loop of short waits: most readiness checks ask a server that cannot call back.
        while waiting:
            for child in list(waiting):
                if self._stopping.is_set():
                    raise PartFailed(child.part.name, "was stopped before it was ready")
                if child.is_ready():
                    waiting.remove(child)
                    announce(child, child.lived_seconds())
            if waiting:
                pause(0.03)

    def stop_part(self, name: str) -> None:
        """Stop one part and everything it has started; it is not started again."""
        with self._turn:
            child = self._children.pop(name)
            stop_in_order([child.leash], child.poll)
            child.close()
            self._reaper.drop(child.pid)

    def kill_part(self, name: str) -> None:
        """Kill one part and everything it has started without warning, as a crash would; a watchman starts it again."""
        child = self.child(name)
        stop_in_order([Leash(child.pid, signal.SIGKILL, 10, 0)], child.poll)

    def stop(self) -> float:
        """Stop everything in order. Returns the seconds it took; a second call does nothing."""
        began = time.monotonic()
        self._stopping.set()
        with self._turn:
            children = list(self._children.values())
            stop_in_order([child.leash for child in children], lambda: _reap(children))
            self._children.clear()
            for child in children:
                child.close()
            remember_processes(self._home, [])
            self._reaper.dismiss()
        return time.monotonic() - began


def _reap(children: Iterable[Child]) -> None:
    for child in children:
        child.poll()
