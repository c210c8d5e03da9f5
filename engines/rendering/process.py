"""The process that renders chat templates, seen from outside: asked, ended where a template takes too long, and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("program.py")
START_SECONDS = 60.0
BATCH_CHARACTERS = 1 << 18
BYTES_OF_A_CHARACTER = 12
"""Of one beyond the first 65,536 in JSON that is all ASCII, so that a lone half of one travels too."""
BESIDE_THE_TEXT = 65536
PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
"""What finds the interpreter's libraries and Jinja; nothing else of our environment gets there."""
_GONE = "the process that renders it ended twice"


@dataclass(frozen=True)
class Bounds:
    """What one conversation may take: processor time, which a machine under load does not use up; time; memory; and what it makes."""

    seconds: float = 10.0
    patience: float = 60.0
    megabytes: int = 1024
    characters: int = 8_000_000


@dataclass(frozen=True)
class Question:
    """A conversation to be rendered with a template; `asks`: the beginning of an answer follows it. All of it is JSON's."""

    template: str
    special: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None
    asks: bool


class TemplateRefused(Exception):
    """A template makes no text of a conversation. `kind` names what it raised."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message or kind)
        self.kind = kind


class RendererError(Exception):
    """No template can be rendered on this machine, or not now."""


class _Ended(Exception):
    """The process is gone, or has to go. `is_sure`: for what the template did; else it may have been the machine, or somebody else."""

    def __init__(self, why: str, *, is_sure: bool = False) -> None:
        super().__init__(why)
        self.why, self.is_sure = why, is_sure


class Renderer:
    """Starts its process at the first question, and again when it has ended. Thread-safe; one question at a time."""

    def __init__(self, bounds: Bounds | None = None, program: Path = PROGRAM) -> None:
        self._bounds, self._program = bounds or Bounds(), program
        self._process: _Process | None = None
        self._lock = threading.Lock()

    def render(self, questions: Sequence[Question]) -> list[str | TemplateRefused]:
        """The texts, or why there is none, in their order: one that takes too much costs itself alone. Raises RendererError."""
        with self._lock:
            return [answer for batch in _batches(questions) for answer in self._render(batch)]

    def close(self) -> None:
        """End the process until the next question."""
        with self._lock:
            self._end()

    def _render(self, batch: Sequence[Question]) -> list[str | TemplateRefused]:
        answers, tries = list[str | TemplateRefused](), 0
        while len(answers) < len(batch):
            before = len(answers)
            try:
                self._ask(batch[before:], answers)
            except _Ended as end:
                self._end()
                tries = 1 if len(answers) > before else tries + 1
                if end.is_sure or tries == 2:
                    answers.append(TemplateRefused("TooCostly", end.why))
                    tries = 0
        return answers

    def _ask(self, questions: Sequence[Question], answers: list[str | TemplateRefused]) -> None:
        """Adds the answers that come. Raises _Ended when it ends under one, RendererError when it does not start."""
        if self._process is None:
            self._process = _Process(self._bounds, self._program)
        self._process.send(_line(questions))
        for _ in questions:
            answers.append(_read(self._process.receive()))

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


class _Process:
    """One process, from its start to its end. Once it has given no answer it is of no use."""

    def __init__(self, bounds: Bounds, program: Path) -> None:
        self._bounds, self._received = bounds, bytearray()
        told = {name: value for name, value in asdict(bounds).items() if name != "patience"}
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._child = subprocess.Popen(
                    [sys.executable, "-P", str(program), json.dumps(told)],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C is for whoever asks
                )
            except OSError as error:
                self._socket.close()
                raise RendererError(f"The process that renders chat templates does not start: {error.strerror}.") from error
        self._check_start()

    def send(self, line: bytes) -> None:
        """Raises _Ended."""
        self._socket.settimeout(self._bounds.patience)
        try:
            self._socket.sendall(line)
        except OSError:
            raise _Ended(_GONE) from None

    def receive(self) -> bytes:
        """The next line. Raises _Ended."""
        return self._line(self._bounds.patience)

    def end(self) -> None:
        self._child.kill()
        self._child.wait()
        self._socket.close()

    def _check_start(self) -> None:
        why = "its log says why"
        with suppress(_Ended, ValueError):
            match json.loads(self._line(START_SECONDS)):
                case {"ready": True}:
                    return
                case {"failed": str(told)}:
                    why = told
                case _:
                    why = "something else writes into its answers, a start-up file of Python for instance"
        self.end()
        raise RendererError(f"The process that renders chat templates does not start: {why}.")

    def _line(self, seconds: float) -> bytes:
        until = time.monotonic() + seconds
        most = BESIDE_THE_TEXT + BYTES_OF_A_CHARACTER * self._bounds.characters
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > most:
                raise _Ended("it makes more than is read")
            if not (more := self._more(until)):
                raise self._end_of()
            self._received += more
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _more(self, until: float) -> bytes:
        try:
            self._socket.settimeout(max(0.001, until - time.monotonic()))
            return self._socket.recv(1 << 16)
        except TimeoutError:
            raise _Ended(f"it takes longer than {self._bounds.patience:g} s") from None
        except OSError:
            return b""

    def _end_of(self) -> _Ended:
        """Of one whose stream has ended: the timer's signal ends it where it has used up its processor time."""
        with suppress(subprocess.TimeoutExpired):
            if self._child.wait(self._bounds.patience) == -signal.SIGPROF:
                return _Ended(f"it takes more than {self._bounds.seconds:g} s of processor time", is_sure=True)
        return _Ended(_GONE)


def _environment() -> dict[str, str]:
    # A zone that is named is read once, before files are out of reach.
    ours = {"LANG": "C.UTF-8", "TZ": os.environ.get("TZ", ":/etc/localtime")}
    return ours | {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def _batches(questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    """A line is read whole before it is answered, so it may not be too long."""
    start, size = 0, 0
    for at, question in enumerate(questions):
        size += sum(len(str(part)) for part in (*question.messages, *(question.tools or ())))
        if size > BATCH_CHARACTERS:
            yield questions[start : at + 1]
            start, size = at + 1, 0
    if start < len(questions):
        yield questions[start:]


def _line(questions: Sequence[Question]) -> bytes:
    templates = list(dict.fromkeys(question.template for question in questions))
    conversations = [
        {
            "template": templates.index(question.template),
            "special": question.special,
            "messages": question.messages,
            "tools": question.tools,
            "asks": question.asks,
        }
        for question in questions
    ]
    return json.dumps({"templates": templates, "conversations": conversations}, separators=(",", ":")).encode() + b"\n"


def _read(line: bytes) -> str | TemplateRefused:
    """What a process says that may have been taken over: text, or a refusal. Raises _Ended for anything else."""
    try:
        match json.loads(line):
            case {"text": str(text)}:
                return text
            case {"refused": [str(kind), str(message)]}:
                return TemplateRefused(kind, message)
    except (ValueError, RecursionError):  # JSON may be nested without end
        pass
    raise _Ended("the process that renders it answers with something else")
