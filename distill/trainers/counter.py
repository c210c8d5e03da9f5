"""The local trainer's token counter: ``python -m engines.counter``, kept warm, asked one request at a time."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO, Any

from distill.trainers.base import CannotCount, CounterDied, MaxLength, RowTokens, TokenCounts
from distill.trainers.environment import child_environment

logger = logging.getLogger(__name__)
_LINE_BYTES = 64 * 1024


class LocalCounter:
    """Starts its process at the first question, and again when it has ended meanwhile: it does so when nobody asks. Thread-safe."""

    def __init__(self, python: str = sys.executable, extra_environment: Mapping[str, str] | None = None) -> None:
        self._python = python
        self._extra = dict(extra_environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        # On Linux the process ends with the thread that started it, and threads of a pool end.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="counter-starter")

    def count(self, base_model: str, max_seq_length: MaxLength, rows: Sequence[Mapping[str, Any]]) -> TokenCounts:
        """Raises CannotCount for a base model that is not there, CounterDied when the process ends twice under one question."""
        request = {"base_model": base_model, "max_seq_length": max_seq_length, "rows": rows}
        line = json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            reply = self._ask(line) or self._ask(line)
        if reply is None:
            raise CounterDied("the token counter ended without an answer")
        return _read(reply)

    def rest(self) -> None:
        """End the process until the next question."""
        with self._lock:
            self._end()

    def close(self) -> None:
        """End the process and the thread that started it."""
        self.rest()
        self._starter.shutdown(wait=False)

    def _ask(self, line: bytes) -> bytes | None:
        """The answer, or None where the process has ended."""
        process = self._running()
        assert process.stdin is not None  # noqa: S101 - for the type checker; both are pipes
        assert process.stdout is not None  # noqa: S101 - for the type checker
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = process.stdout.readline()
        except OSError:
            reply = b""
        if not reply.endswith(b"\n"):
            self._end()
            return None
        return reply

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = self._starter.submit(self._spawn).result()
        return self._process

    def _spawn(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [self._python, "-m", "engines.counter"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=child_environment(os.environ) | self._extra,
        )
        threading.Thread(target=_log_lines, args=(process.stderr,), name="counter-log", daemon=True).start()
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


def _log_lines(stderr: IO[bytes]) -> None:
    """Log what the process and its children write to standard error, until the last of them has ended."""
    with stderr:
        while line := stderr.readline(_LINE_BYTES):
            logger.info("token counter: %s", line.decode(errors="replace").rstrip())


def _read(reply: bytes) -> TokenCounts:
    content = json.loads(reply)
    if error := content.get("error"):
        raise CannotCount(error["code"], error["message"], error.get("param"))
    rows = tuple(RowTokens(row["prompt"], row["completion"], row.get("fault")) for row in content["rows"])
    return TokenCounts(content["longest"], rows)
