"""What the operator sees: a table while parts start, then only what matters; full logs are in files."""

import re
import threading
import zlib
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_COLOURS = ("cyan", "magenta", "green", "blue", "yellow", "bright_cyan", "bright_magenta", "bright_green", "bright_blue")
_PROBLEM = re.compile(r"\b(warning|error|critical|fatal|panic|traceback)\b", re.IGNORECASE)
_NEWS = re.compile("Unpacking the base model")
# True of most machines: of no consequence for a broker that keeps a few hints, and for a worker that reads no pickles from its queue.
_HARMLESS = re.compile("Memory overcommit must be enabled|running the worker with superuser privileges")
_STYLES = {"ready": "green", "starting": "yellow", "restarting": "yellow", "failed": "bold red", "stopped": "dim"}


class Reporter(Protocol):
    """Told about everything that happens to the parts, from several threads."""

    def begin(self, names: Sequence[str]) -> None:
        """These parts will be started."""

    def state(self, name: str, state: str, detail: str = "") -> None:
        """A part is `starting`, `ready`, `restarting`, `failed` or `stopped`."""

    def line(self, name: str, text: str) -> None:
        """A part wrote a line."""

    def say(self, text: str) -> None:
        """Something about the whole stack."""

    def end(self) -> None:
        """The table is complete, or the start was given up."""


class Silent:
    """For tests and for programs that use a stack: nothing is shown, everything is in the log files."""

    def begin(self, names: Sequence[str]) -> None: ...
    def state(self, name: str, state: str, detail: str = "") -> None: ...
    def line(self, name: str, text: str) -> None: ...
    def say(self, text: str) -> None: ...
    def end(self) -> None: ...


class Shown:
    """On a terminal a table that fills while parts start; elsewhere one line for each change. Problems and long steps always pass.

    Args:
        console: where to write.
        verbose: pass every line of every part.
    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console, self._verbose = console, verbose
        self._states: dict[str, tuple[str, str]] = {}
        self._live: Live | None = None
        self._talking: set[str] = set()
        self._held: dict[str, list[str]] = {}
        self._width = 8
        self._turn = threading.RLock()

    def begin(self, names: Sequence[str]) -> None:
        with self._turn:
            self._width = max(len(name) for name in names)
            self._states = dict.fromkeys(names, ("waiting", ""))
            if self._console.is_terminal:
                self._live = Live(self._table(), console=self._console, refresh_per_second=8)
                self._live.start()

    def state(self, name: str, state: str, detail: str = "") -> None:
        with self._turn:
            self._states[name] = (state, detail)
            if state == "ready":
                for text in self._held.pop(name, []):
                    self._print_line(name, text)
            if self._live:
                self._live.update(self._table())
            elif state not in ("starting", "stopped"):
                self._console.print(self._prefix(name), Text(f"{state} {detail}".rstrip(), style=_STYLES.get(state, "")), soft_wrap=True)

    def line(self, name: str, text: str) -> None:
        with self._turn:
            if self._verbose or _NEWS.search(text):
                self._print_line(name, text)
            elif self._is_problem(name, text):
                # The message of a part that does not start ends with its last lines: they are not shown twice.
                if self._states.get(name, ("", ""))[0] == "starting":
                    self._held.setdefault(name, []).append(text)
                else:
                    self._print_line(name, text)

    def say(self, text: str) -> None:
        with self._turn:
            self._console.print(Text(text), soft_wrap=True)

    def end(self) -> None:
        with self._turn:
            if self._live:
                self._live.stop()
                self._live = None

    def _print_line(self, name: str, text: str) -> None:
        self._console.print(self._prefix(name), Text(text), soft_wrap=True)

    def _is_problem(self, name: str, text: str) -> bool:
        """A warning or an error, or the indented lines that belong to one."""
        if _PROBLEM.search(text) and not _HARMLESS.search(text):
            self._talking.add(name)
        elif not text[:1].isspace():
            self._talking.discard(name)
        return name in self._talking

    def _prefix(self, name: str) -> Text:
        return Text(f"{name:>{self._width}} |", style=_COLOURS[zlib.crc32(name.encode()) % len(_COLOURS)])

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, (state, detail) in self._states.items():
            table.add_row(self._prefix(name), Text(state, style=_STYLES.get(state, "dim")), Text(detail, style="dim"))
        return table


def literal(text: str) -> str:
    """Text of others, with nothing in it read as markup."""
    return escape(text)
