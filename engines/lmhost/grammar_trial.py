"""Tries grammars in a process of its own, which is ended where one takes too much time or memory to compile.

llguidance limits the size of what it compiles, but not the work of intersecting patterns (`allOf`), and a compile cannot be interrupted.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import llguidance

#: The host compiles the grammar once more, so that both together take at most twice this.
PROCESSOR_SECONDS = 1.0
MEMORY_BYTES = 4 * 1024**3
_ENDED_BY_LIMIT = (signal.SIGPROF, signal.SIGABRT, signal.SIGSEGV)
#: By the timer; by an allocation that fails, which Rust aborts at and C++ may not look at.
_TOO_MUCH = f"it takes more than {PROCESSOR_SECONDS:g} s of processor time or {MEMORY_BYTES // 1024**3} GiB to compile; make it smaller"


class GrammarTrial:
    """Starts the process with the first grammar, and again after one that ended it. `tokenizer` has the arguments of LLTokenizer."""

    def __init__(self, tokenizer: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def problem(self, source: str) -> str:
        """Why the grammar does not compile; an empty string where it does. Tries again where the process was ended from outside.

        Raises RuntimeError where that happens twice, or the process ends by itself.
        """
        with self._lock:
            for _ in range(2):
                process = self._process = self._process or self._start()
                answer = _ask(process, source)
                if answer:
                    return str(json.loads(answer))
                self._process = None
                if -_ended(process) in _ENDED_BY_LIMIT:
                    return _TOO_MUCH
            raise RuntimeError("the process that tries grammars ended twice, and not by its limits")

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._process is not None:
                _ended(self._process)
                self._process = None

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "engines.lmhost.grammar_trial"]
        # What a grammar makes of this process, an aborted allocation say, is no line for the host's log.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        _send(process, self._tokenizer)
        return process


def _ask(process: subprocess.Popen[str], source: str) -> str:
    """The line that the process answers; empty when it has ended."""
    _send(process, source)
    return process.stdout.readline() if process.stdout else ""


def _send(process: subprocess.Popen[str], value: Any) -> None:
    if process.stdin:
        try:
            process.stdin.write(json.dumps(value) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return  # it has ended, which its answer will show


def _ended(process: subprocess.Popen[str]) -> int:
    """The process's exit status: it ends when its input does."""
    try:
        process.communicate()
    except BrokenPipeError:
        process.wait()
    return process.returncode


def _serve() -> None:
    """Answer each grammar, a line of JSON, with a line of JSON that says what is wrong with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of the input ends it, not a terminal's Ctrl-C
    tokenizer = llguidance.LLTokenizer(**json.loads(sys.stdin.readline()))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        source = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
        problem = llguidance.LLMatcher(tokenizer, source, log_level=0).get_error()
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(problem) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
