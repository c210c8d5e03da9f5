"""Parts that die: start them again, ever more slowly, and give up when that does not help."""

import threading
import time
from dataclasses import dataclass

from stack.child import Child, ending
from stack.console import Reporter, literal
from stack.crew import Crew
from stack.errors import PartFailed
from stack.processes import stop_in_order


@dataclass
class Patience:
    """How often a part may die. A part that lived longer than `quick_seconds` starts with a clean record.

    Attributes:
        limit: quick deaths in a row after which nothing is tried any more.
        quick_seconds: a life shorter than this is a quick death.
        first_delay_seconds: before the first new start; doubles with each quick death.
    """

    limit: int = 5
    quick_seconds: float = 20.0
    first_delay_seconds: float = 0.5
    deaths: int = 0

    def died_after(self, seconds: float) -> float | None:
        """Seconds to wait before the next start; None: give up."""
        self.deaths = self.deaths + 1 if seconds < self.quick_seconds else 1
        return None if self.deaths >= self.limit else self.first_delay_seconds * 2 ** (self.deaths - 1)


class Watchman:
    """A thread that looks after the crew until it is told to stop or gives up.

    Attributes:
        over: set when it gave up; `failure` then says why.
    """

    def __init__(self, crew: Crew, reporter: Reporter, patience: Patience | None = None) -> None:
        self._crew, self._reporter = crew, reporter
        self._model = patience or Patience()
        self._patience: dict[str, Patience] = {}
        self._due: dict[str, float] = {}
        self._starting: set[str] = set()
        self.over = threading.Event()
        self.failure: PartFailed | None = None
        self._thread = threading.Thread(target=self._watch, name="watchman", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """After the crew was told to stop."""
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def _watch(self) -> None:
        try:
            while not self._crew.stopping.wait(0.2):
                for child in self._crew.children():
                    self._look(child)
        except PartFailed as failure:
            if not self._crew.stopping.is_set():
                self.failure = failure
                self._reporter.state(failure.name, "failed", failure.reason)
                self.over.set()

    def _look(self, child: Child) -> None:
        name = child.part.name
        if name in self._due:
            if time.monotonic() >= self._due[name]:
                del self._due[name]
                self._crew.start(child.part)
                self._starting.add(name)
        elif (code := child.exit_code()) is not None:
            self._died(child, ending(code))
        elif name in self._starting:
            self._look_at_start(child)

    def _look_at_start(self, child: Child) -> None:
        name = child.part.name
        try:
            if child.is_ready():
                self._starting.discard(name)
                self._reporter.state(name, "ready", f"again after {child.lived_seconds():.1f} s")
        except PartFailed as failure:
            stop_in_order([child.leash], child.poll)
            self._died(child, failure.reason)

    def _died(self, child: Child, reason: str) -> None:
        name = child.part.name
        self._starting.discard(name)
        record = self._patience.setdefault(name, Patience(self._model.limit, self._model.quick_seconds, self._model.first_delay_seconds))
        delay = record.died_after(child.lived_seconds())
        if delay is None:
            raise PartFailed(name, f"died {record.deaths} times in a row ({reason}); the end of its log:", child.flushed_tail())
        # What a dead part leaves behind of its own children would work on beside its successor.
        stop_in_order([child.leash], child.poll)
        self._due[name] = time.monotonic() + delay
        self._reporter.state(name, "restarting", f"in {delay:.1f} s: it ended ({literal(reason)})")
