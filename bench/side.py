"""A side is a process that answers one line of JSON with another; it runs in a session of its own and stays warm between rounds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.cpu import cpu_seconds

Json = dict[str, Any]
ROOT = Path(__file__).parents[1]
_TAIL_BYTES = 1500


class SideFailed(Exception):
    """A side ended, fell silent, or answered with an error; the text is its own last words."""


@dataclass(frozen=True)
class Timed:
    """An answer, the wall seconds that the side itself measured, and the CPU seconds of its whole process tree meanwhile."""

    reply: Json
    seconds: float
    cpu_seconds: float


class Side:
    """`python -m bench.sides.NAME ARGUMENTS`, ready when the block begins and killed with all its children when it ends."""

    def __init__(
        self, name: str, environment: Mapping[str, str], log: Path, arguments: Sequence[str] = (), patience: float = 600.0
    ) -> None:
        self._name, self._log, self._patience = name, log, patience
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"bench.sides.{name}", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                env=dict(environment),
                start_new_session=True,
            )
        try:
            self._read()
        except SideFailed:
            self.close()
            raise
        self.start_seconds = time.monotonic() - started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, **request: Any) -> Json:
        """The answer to a request. Raises SideFailed, also when none came in time."""
        stdin = self._process.stdin
        if stdin is None:
            raise SideFailed(f"{self._name} has no input")
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        except OSError:
            raise self._failure() from None
        return self._read()

    def timed(self, **request: Any) -> Timed:
        """`ask` for work whose answer has `seconds`, with the CPU time it took."""
        before = cpu_seconds(self.pid)
        reply = self.ask(**request)
        return Timed(reply, float(reply["seconds"]), cpu_seconds(self.pid) - before)

    def close(self) -> None:
        """Kill the side and everything it has started that stayed in its session."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _read(self) -> Json:
        stdout = self._process.stdout
        if stdout is None:
            raise SideFailed(f"{self._name} has no output")
        watchdog = threading.Timer(self._patience, self._process.kill)
        watchdog.start()
        try:
            line = stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise self._failure()
        reply: Json = json.loads(line)
        if "error" in reply:
            raise SideFailed(f"{self._name}: {reply['error']}")
        return reply

    def _failure(self) -> SideFailed:
        tail = self._log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").strip()
        return SideFailed(f"{self._name} ended ({self._process.wait()}): {tail}")


def serve(answer: Callable[[Json], Json]) -> None:
    """The side's own half: say that it is ready, then answer line by line until the input ends. Whatever else prints goes to stderr."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _say(replies, {"ready": True})
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        _say(replies, reply)


def _say(stream: Any, reply: Json) -> None:
    stream.write(json.dumps(reply) + "\n")
    stream.flush()
