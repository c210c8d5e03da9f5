"""`stillhouse-server drain`: the maintenance switch, from the command line."""

from distill.db import unit_of_work
from distill.jobs import maintenance
from distill.jobs.maintenance import Maintenance
from stack.processes import pause

_LOOK_SECONDS = 1.0


def begin(reason: str | None, *, wait: bool) -> str:
    """Drain the server; with `wait` return when no work item is held. Says how it stands then."""
    with unit_of_work() as session:
        maintenance.begin(session, reason)
    while wait and _read().running_items:
        pause(_LOOK_SECONDS)
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


def _read() -> Maintenance:
    with unit_of_work() as session:
        return maintenance.read(session)
