"""The one task: look at a queue, and work on it until it is empty or a minute has passed."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import structlog

from distill.catalog import blobs, connections, projects
from distill.db import unit_of_work
from distill.execute.ports import Ports, open_ports
from distill.execute.run import SECONDS, Shift, StepRunner, run_queue
from distill.ids import short_token
from distill.jobs.call_counters import CallCounters
from distill.jobs.claims import WorkerInfo
from distill.jobs.fine_tuning import CAPABILITY as FINE_TUNES
from distill.jobs.service import runs_programs
from distill.jobs.status import Step
from distill.jobs.steps import OWN_CONNECTIONS
from distill.queue import check_broker, send_hint
from distill.rollouts import runtimes
from distill.settings import Settings, get_settings
from distill.storage import open_store
from migrations.runner import check_schema
from workers.presence import Presence

log = structlog.get_logger(__name__)

CAPABILITIES = frozenset({"runtime:default", "trainer:local", FINE_TUNES, OWN_CONNECTIONS})
"""What a worker can do: run programs, each in an interpreter like its own, train with the trainer that is installed beside it, and
what came with later releases; see `capabilities`."""

EXIT_NOT_DRAINED = 70


def capabilities(pythons: Mapping[str, str]) -> frozenset[str]:
    """`CAPABILITIES`, and the versions of Python that bundles may be of here."""
    return CAPABILITIES | {need for python in runtimes.served(pythons) for need in runs_programs(python)}


@dataclass(frozen=True)
class Crew:
    """What the threads of one worker process share."""

    ports: Ports
    calls: CallCounters
    shift: Shift
    worker: WorkerInfo
    steps: Mapping[Step, StepRunner]


_lock = threading.Lock()
_crew: list[Crew] = []
_presence: list[Presence] = []


def run(queue: str) -> None:
    """Handle one hint. What is left after a minute is hinted at again, so that other queues of this worker get their turn."""
    team = crew()
    started = time.monotonic()
    run_queue(queue, team.worker, team.ports, team.shift, team.steps)
    if time.monotonic() - started >= SECONDS and not team.shift.is_over:
        send_hint(queue)


def crew() -> Crew:
    """This process's crew, made at the first call: the store is checked, connections are synced, the relay starts."""
    with _lock:
        if not _crew:
            _crew.append(_gather(get_settings()))
        return _crew[0]


def attend(queues: Collection[str], threads: int) -> None:
    """Tell, from now on, that this worker listens to these queues."""
    presence = Presence(crew().worker, queues, threads, get_settings().timers.worker_seen_seconds)
    presence.begin()
    _presence.append(presence)


def drain() -> None:
    """Claim nothing more and give back what runs. In threads of its own: it is called from a signal handler, which must not wait.

    Whatever does not come to its end then, a call to Redis or to a database that hangs, ends with the process; its leases lapse, as after
    `kill -9`.
    """
    for presence in _presence:
        presence.end()
    for team in _crew:
        threading.Thread(target=_stop, args=(team.shift,), name="drain").start()
    limit = threading.Timer(get_settings().timers.drain_seconds, os._exit, (EXIT_NOT_DRAINED,))
    limit.daemon = True
    limit.start()


def _stop(shift: Shift) -> None:
    log.info("worker_drains")
    shift.stop()


def close() -> None:
    """End the children and the relay."""
    while _presence:
        presence = _presence.pop()
        presence.end()
        presence.wait()
    with _lock:
        while _crew:
            team = _crew.pop()
            team.ports.close()
            team.calls.stop()


def _gather(settings: Settings) -> Crew:
    check_broker()
    # Here and not above: the tests put others in their place. And not with the first hint: a worker whose steps cannot be imported does
    # not start, and nobody takes it for one that is there.
    from distill.execute.steps import STEPS

    with unit_of_work() as s:
        check_schema(s)
        blobs.check_store(s, open_store(settings))
    ports = open_ports(settings)
    with unit_of_work() as s:
        connections.sync(s, settings, disable_others=False)
        projects.sync(s, settings, reset_others=False)
    name = f"{socket.gethostname()}-{os.getpid()}-{short_token()}"
    calls = CallCounters(ports.relay.calls, "worker")
    calls.start()
    return Crew(ports, calls, Shift(), WorkerInfo(name, capabilities(settings.pythons)), STEPS)
