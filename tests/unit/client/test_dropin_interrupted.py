"""Ctrl-C in the drop-in: a real SIGINT, to a real process, at a terminal and without one."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stillhouse
from stillhouse import _progress
from stillhouse.dropin import following
from tests.unit.client.dropin_server import Server, desk, example, rows_sent

ROOT = Path(__file__).parents[3]
SECONDS = 800.0
PATIENCE = 20.0
QUESTION, HOW = "Cancel cjob-1, or leave it running? [c/L] ", "to cancel it: stillhouse.Stillhouse()"


def command(calls: int) -> list[str]:
    return [sys.executable, "-m", "tests.unit.client.interrupted", str(calls)]


class Terminal:
    """A process at a terminal of its own, and the one who sits there."""

    def __init__(self, calls: int) -> None:
        self._screen, there = os.openpty()
        self._process = subprocess.Popen(command(calls), stdin=there, stdout=there, stderr=there, start_new_session=True, cwd=ROOT)
        os.close(there)
        self._unread = ""

    def read(self, text: str) -> str:
        """What appears up to and with `text`."""
        assert self._appears(text, SECONDS), f"no {text!r} in {self._unread!r}"
        before, _, self._unread = self._unread.partition(text)
        return before + text

    def _appears(self, text: str, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while text not in self._unread:
            if not select.select([self._screen], [], [], max(0.0, until - time.monotonic()))[0]:
                return False
            try:
                new = os.read(self._screen, 65536)
            except OSError:  # nobody is there any more
                new = b""
            assert new, f"it ended without {text!r}: {self._unread!r}"
            self._unread += new.decode()
        return True

    def press(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    def interrupt(self, until: str) -> str:
        """Ctrl-C. One that comes just before Python waits for its input is heard with the next key alone, so it is pressed again then."""
        self.press("\x03")
        while not self._appears(until, PATIENCE):
            self.press("\x03")
        return self.read(until)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._screen)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal(4)
    yield made
    made.close()


@pytest.mark.slow
class TestSignal:
    def test_it_asks_at_a_terminal(self, terminal: Terminal) -> None:
        terminal.read("it waits")
        terminal.interrupt(QUESTION)
        told = terminal.interrupt("over: 1 made, 0 cancelled")
        assert HOW in told, "a second one is no answer"

        assert "cjob-1 is running: this call goes on with it" in terminal.read("it waits")
        terminal.interrupt(QUESTION)
        terminal.press("\n")
        told = terminal.read("over: 1 made, 0 cancelled")
        assert "cjob-1 goes on, on the server. The same call goes on with it; " in told

        terminal.read("it waits")
        terminal.interrupt(QUESTION)
        terminal.press("\x04")  # the end of the input
        terminal.read("over: 1 made, 0 cancelled")

        terminal.read("it waits")
        terminal.interrupt(QUESTION)
        terminal.press("c\n")
        assert "cjob-1 is being cancelled" in terminal.read("over: 1 made, 1 cancelled")

    def test_without_a_terminal_it_is_left(self) -> None:
        pipe = subprocess.PIPE
        with subprocess.Popen(command(1), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, cwd=ROOT) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "it waits\n"
                process.send_signal(signal.SIGINT)
                out, told = process.communicate(timeout=SECONDS)
            finally:
                process.kill()
        assert out == "over: 1 made, 0 cancelled\n"
        assert QUESTION not in told
        assert f"The same call goes on with it; {HOW}" in told


@pytest.mark.filterwarnings("ignore:metric")  # it holds an event, which cannot be told from another
class TestHere:
    def test_what_is_made_here_is_sent_and_given_back(
        self, server: Server, client: stillhouse.Stillhouse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The bar stands for the moment at which somebody presses the keys."""
        begun, enough = threading.Event(), threading.Event()

        def interrupted(*_: Any) -> None:
            if begun.is_set():
                enough.set()
                raise KeyboardInterrupt

        def metric(*_: Any) -> bool:
            begun.set()
            return enough.wait(60)

        monkeypatch.setattr(following, "_LOOK_SECONDS", 0.01)
        monkeypatch.setattr(_progress.JobProgress, "update", interrupted)
        server.examples = [example(number) for number in range(6)]
        with pytest.raises(KeyboardInterrupt):
            stillhouse.BootstrapFinetune(client=client, metric=metric).compile(desk("house/tiny"), server.examples)
        assert server.bodies("POST /v1/work_items/release") == [{"id": "work-1", "fence": 1}]
        assert rows_sent(server)
        assert not server.bodies("POST /v1/compile_jobs/cjob-1/cancel")
        assert f"cjob-1 waits: its rollouts are made here. The same call goes on with it; {HOW}" in capsys.readouterr().err
