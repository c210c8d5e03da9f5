"""`stillhouse-server drain`: the maintenance switch, from the command line."""

import time
from collections.abc import Callable

from distill.db import unit_of_work
from distill.jobs import maintenance
from distill.jobs.maintenance import Maintenance
from stack.errors import StackError
from stack.processes import pause

_LOOK_SECONDS = 1.0


def begin(reason: str | None) -> str:
    """Drain the server. Says how it stands then."""
    with unit_of_work() as session:
        maintenance.begin(session, reason)
    return status()


def wait(seconds: float | None, say: Callable[[str], None]) -> str:
    """Return when no work item is held, and say meanwhile how many are, whenever that changes. Raises StackError after `seconds`."""
    end = None if seconds is None else time.monotonic() + seconds
    told = 0
    while held := _read().running_items:
        if held != told:
            say(f"Waiting for {_items(held)} to be given back")
            told = held
        left = _LOOK_SECONDS if end is None else end - time.monotonic()
        if left <= 0:
            be = "is" if held == 1 else "are"
            raise StackError(f"after {seconds:g} s {_items(held)} {be} still held; the server stays drained: wait again, or see --undo")
        pause(min(left, _LOOK_SECONDS))
    return status()


def end() -> str:
    """Take jobs again. Says how it stands then."""
    with unit_of_work() as session:
        maintenance.end(session)
    return status()


def status() -> str:
    found = _read()
    if found.since is None:
        return "The server takes jobs."
    reason = f" ({found.reason})" if found.reason else ""
    return f"Draining since {found.since:%Y-%m-%d %H:%M:%S %Z}{reason}; work items still held: {found.running_items}"


def _items(number: int) -> str:
    return f"{number} work item{'' if number == 1 else 's'}"


def _read() -> Maintenance:
    with unit_of_work() as session:
        return maintenance.read(session)
