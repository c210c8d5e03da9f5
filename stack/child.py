"""One running part: its process, its log, and what it said last."""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from stack.errors import PartFailed
from stack.parts import Part
from stack.processes import Leash

Listener = Callable[[str, str], None]


class Child:
    """A started part. Its output goes to its log file, to `listener(name, line)`, and to a short memory for messages."""

    def __init__(self, part: Part, environment: Mapping[str, str], logs: Path, listener: Listener) -> None:
        self.part = part
        self.started_at = time.monotonic()
        self._tail: deque[str] = deque(maxlen=40)
        self._lines: list[str] | None = []  # since the start, until ready
        self._process = _spawn(part, environment)
        self._pump = threading.Thread(target=self._read, args=(LogFile(logs, part.name), listener), name=f"log-{part.name}", daemon=True)
        self._pump.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def leash(self) -> Leash:
        return Leash(self.pid, int(self.part.stop_signal), self.part.grace_seconds, self.part.tier)

    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def poll(self) -> None:
        """Collect the exit code if it has ended."""
        self._process.poll()

    def close(self) -> None:
        """Wait for the end of a stopped part and of its log."""
        self._process.wait()
        self._pump.join(timeout=5)

    def lived_seconds(self) -> float:
        return time.monotonic() - self.started_at

    def said(self, pattern: re.Pattern[str]) -> bool:
        return any(pattern.search(text) for text in list(self._lines or ()))

    def tail(self, lines: int = 15) -> str:
        """The end of its output."""
        return "\n".join(list(self._tail)[-lines:])

    def is_ready(self) -> bool:
        """Asks the part's readiness check. Raises PartFailed when the part has ended or takes too long."""
        if self.part.ready(self):
            self._lines = None
            return True
        if (code := self.exit_code()) is not None:
            raise PartFailed(self.part.name, f"ended before it was ready ({ending(code)})", self.flushed_tail())
        if self.lived_seconds() > self.part.ready_seconds:
            raise PartFailed(self.part.name, f"is not ready after {self.part.ready_seconds:.0f} s", self.tail())
        return False

    def flushed_tail(self) -> str:
        """The end of the output of a part that has ended, once its pipe is read to the end."""
        self._pump.join(timeout=2)
        return self.tail()

    def _read(self, log: "LogFile", listener: Listener) -> None:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker; it is opened as a pipe below
        with contextlib.closing(log), self._process.stdout:
            for raw in self._process.stdout:
                text = raw.rstrip("\n")
                log.write(raw)
                self._tail.append(text)
                if (lines := self._lines) is not None:
                    lines.append(text)
                listener(self.part.name, text)


class LogFile:
    """A part's full log; one that has grown long is put aside as `.log.1`, so a part keeps at most two."""

    def __init__(self, folder: Path, name: str, limit_bytes: int = 8_000_000) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._limit = folder / f"{name}.log", limit_bytes
        self._file = self._open()

    def write(self, text: str) -> None:
        if self._file.tell() > self._limit:
            self._file.close()
            os.replace(self._path, self._path.with_suffix(".log.1"))
            self._file = self._open()
        self._file.write(text)

    def close(self) -> None:
        self._file.close()

    def _open(self) -> TextIO:
        return self._path.open("a", encoding="utf-8", buffering=1)


def ending(code: int) -> str:
    """Exit code in words: `exit code 2`, `SIGKILL`."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _spawn(part: Part, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    # A session of its own: Ctrl-C in the terminal reaches only the supervisor, which then stops the parts in order.
    owner = part.owner
    return subprocess.Popen(
        part.command,
        env={**environment, **part.environment},
        cwd=part.workdir,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        user=owner.uid if owner else None,
        group=owner.gid if owner else None,
        extra_groups=[] if owner else None,
    )
