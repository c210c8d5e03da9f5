"""``python -I -S guard.py FD COMMAND…``: run a command, and leave no process of it behind.

A process group is no cage: whoever calls setsid() leaves it. The guard is the *subreaper* of everything that comes of the command: a
process whose parent has ended becomes the guard's child, so all of them can be found, whatever sessions they made, until none is left.
It ends the tree when the command ends, and when the socket FD closes: that happens when whoever holds its other end says so, or dies, even
by ``kill -9``. Bytes that come over the socket are numbers of signals for the command; two lines of JSON go back: that it began, and how it
ended. Standard library only, and little of that: one is started beside every trainer.
"""

import ctypes
import json
import os
import select
import signal
import socket
import sys
from types import FrameType

PR_SET_CHILD_SUBREAPER = 36  # <sys/prctl.h>
OOM_SCORE = 500
"""When memory runs out, the kernel takes the command and not the worker that watches it, which holds the leases."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
NOT_STARTED = 127


class Guard:
    """One command, from its start to the end of all that came of it."""

    def __init__(self, lifeline: socket.socket) -> None:
        self._lifeline = lifeline
        self._woken = -1
        self._status: int | None = None
        self._peak_kb = 0
        self.pid = 0

    def run(self, command: list[str]) -> int:
        """Returns the command's wait status. Raises OSError if it cannot be started."""
        _be_subreaper()
        self._woken = _wake_on_signals()
        # A group of its own, where no subreaper is to be had; and Python ignores SIGPIPE, which its children should not.
        self.pid = os.posix_spawnp(command[0], command, os.environ, setpgroup=0, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ])
        for number in FORWARDED:
            signal.signal(number, self._forward)
        _offer_to_the_oom_killer(self.pid)
        _let_go_of_standard_streams()
        self.tell({"pid": self.pid})
        while self._status is None and self._listen():
            self._reap()
        self._end_all()
        status = signal.SIGKILL if self._status is None else self._status
        self.tell({"status": int(status), "peak_kb": self._peak_kb})
        return int(status)

    def tell(self, line: dict[str, int]) -> None:
        """Nobody may be there to hear it."""
        try:
            self._lifeline.sendall(json.dumps(line).encode() + b"\n")
        except OSError:
            return

    def _listen(self) -> bool:
        """Wait for a word or a signal; False when the tree is to end."""
        lifeline = self._lifeline.fileno()
        if lifeline not in self._wait([lifeline], None):
            return True
        word = self._lifeline.recv(64)
        for number in word:
            _send(self.pid, number)
        return bool(word)

    def _wait(self, others: list[int], seconds: float | None) -> list[int]:
        """Until a signal has come, one of the others has something to read, or the time is over; returns those others."""
        readable, _, _ = select.select([self._woken, *others], [], [], seconds)
        if self._woken in readable:
            os.read(self._woken, 512)
        return [other for other in others if other in readable]

    def _forward(self, number: int, frame: FrameType | None) -> None:
        _send(self.pid, number)

    def _reap(self) -> bool:
        """Collect whoever has ended; False when there is nobody left to wait for."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.pid:
                self._status, self._peak_kb = status, usage.ru_maxrss

    def _end_all(self) -> None:
        """Again and again, since a process may start another while it is looked for; no child left means no descendant left."""
        pause = 0.001
        _send_group(self.pid, signal.SIGKILL)
        while self._reap():
            for pid in _descendants(os.getpid()):
                _send(pid, signal.SIGKILL)
            self._wait([], pause)
            pause = min(2 * pause, 0.25)


def _be_subreaper() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _wake_on_signals() -> int:
    """A file descriptor that becomes readable with every signal, so that none is missed between two looks."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reading


def _offer_to_the_oom_killer(pid: int) -> None:
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(OOM_SCORE))
    except OSError:
        return  # ended already, or not Linux


def _let_go_of_standard_streams() -> None:
    """They are the command's: whoever reads them must see their end when it has ended."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.close(nothing)


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if entry.isdigit() and (parent := _parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry))
    found, todo = [], list(children.get(root, ()))
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo.extend(children.get(pid, ()))
    return found


def _parent(pid: str) -> int | None:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return


def _send_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except OSError:
        return


def _end_like(status: int) -> None:
    """With the command's own exit code, or by its signal."""
    if os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def main(arguments: list[str]) -> None:
    given = int(arguments[0])
    lifeline = socket.socket(fileno=os.dup(given))  # a low number, which select can count, and not inherited
    os.close(given)
    guard = Guard(lifeline)
    try:
        status = guard.run(arguments[1:])
    except OSError as error:
        guard.tell({"errno": error.errno or 0})
        os._exit(NOT_STARTED)
    _end_like(status)


if __name__ == "__main__":
    main(sys.argv[1:])
