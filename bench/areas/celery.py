"""Celery's pools under the server's settings: threads, which it uses, against prefork. Round trips of hints, and supervising tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from bench.cpu import cpu_seconds
from bench.figures import interleave, percentile
from bench.report import Detail, Figure, figure, measured
from bench.session import Session
from bench.side import ROOT, Side
from stack.crew import Crew
from stack.parts import Part, line
from stack.servers import scratch_servers

AREA = "celery"
OTHER = "prefork"
# The pools side by side, each on a queue of its own that the server's settings know.
QUEUES = {"threads": "light", "prefork": "rollouts"}
WIDTH = 2


@dataclass(frozen=True)
class Pools:
    """Both workers, ready, and who sends to them."""

    crew: Crew
    sender: Side

    def cpu(self, pool: str) -> float:
        return cpu_seconds(self.crew.child(pool).pid)


@dataclass(frozen=True)
class Batch:
    """Tasks a second and CPU ms a task of the worker's whole process tree; the milliseconds of each round trip, and those
    inside each supervising task, where they were taken."""

    rate: float
    cpu_ms: float
    trips: list[float]
    inside: list[float]


def measure(session: Session) -> list[Figure]:
    rounds = session.size(2, 5)
    session.expect(1 + 6 * rounds)
    session.tick("starting both workers")
    with _pools(session) as pools:
        pools.sender.ask(op="together", task="noop", n=20, queue=QUEUES["threads"])
        pools.sender.ask(op="together", task="noop", n=20, queue=QUEUES["prefork"])
        return [
            *_round_trips(session, pools, rounds),
            _throughput(session, pools, rounds, "no-op hints", "noop", session.size(50, 1000)),
            _throughput(session, pools, rounds, "supervising tasks", "supervise", session.size(20, 200)),
        ]


@contextmanager
def _pools(session: Session) -> Iterator[Pools]:
    with scratch_servers(session.folder("celery-servers")) as servers:
        environment = session.environment(REDIS_URL=servers.redis_url, PYTHONPATH=str(ROOT))
        crew = Crew(session.folder(AREA), environment, lambda _name, _line: None)
        try:
            crew.wait_ready([crew.start(_worker(pool)) for pool in QUEUES])
            with Side("celery_sender", environment, session.folder(AREA) / "sender.log") as sender:
                yield Pools(crew, sender)
        finally:
            crew.stop()


def _worker(pool: str) -> Part:
    options = (
        "-Q",
        QUEUES[pool],
        "--pool",
        pool,
        "-c",
        str(WIDTH),
        "-n",
        f"{pool}@%h",
        "--without-gossip",
        "--without-mingle",
        "-l",
        "info",
    )
    return Part(pool, (sys.executable, "-m", "celery", "-A", "bench.celery_probe", "worker", *options), 1, line(r"\bready\b"))


def _batch(session: Session, pools: Pools, pool: str, request: dict[str, Any]) -> Batch:
    session.tick(f"{request['op'].replace('_', ' ')}, {pool}")
    before = pools.cpu(pool)
    reply = pools.sender.ask(**request, queue=QUEUES[pool])
    number = request["n"]
    return Batch(number / reply["seconds"], 1000 * (pools.cpu(pool) - before) / number, reply["trip_ms"], reply["inside_ms"])


def _both(session: Session, pools: Pools, rounds: int, **request: Any) -> tuple[list[Batch], list[Batch]]:
    sides: list[Callable[[], Batch]] = [partial(_batch, session, pools, pool, request) for pool in QUEUES]
    threads, prefork = interleave(rounds, sides)
    return threads, prefork


def _round_trips(session: Session, pools: Pools, rounds: int) -> list[Figure]:
    number = session.size(30, 500)
    threads, prefork = _both(session, pools, rounds, op="one_by_one", n=number)
    made = []
    for share in (0.5, 0.95):
        sides = [[percentile(batch.trips, share) for batch in batches] for batches in (threads, prefork)]
        wall = measured("ms", "lower", *sides)
        cpu = _cpu(threads, prefork) if share == 0.5 else None
        made.append(figure(AREA, f"no-op hint, round trip, p{share * 100:.0f}", wall, n=number, cpu=cpu, other_name=OTHER))
    return made


def _throughput(session: Session, pools: Pools, rounds: int, name: str, task: str, number: int) -> Figure:
    threads, prefork = _both(session, pools, rounds, op="together", task=task, n=number)
    wall = measured("tasks/s", "higher", [batch.rate for batch in threads], [batch.rate for batch in prefork])
    details: dict[str, Detail] = {"concurrency": WIDTH}
    if task == "supervise":
        details |= {"p50_ms_inside_ours": _inside(threads), "p50_ms_inside_other": _inside(prefork)}
    return figure(AREA, f"{name}, {WIDTH} at once", wall, n=number, cpu=_cpu(threads, prefork), other_name=OTHER, details=details)


def _cpu(threads: list[Batch], prefork: list[Batch]) -> Any:
    return measured("CPU ms/task", "lower", [batch.cpu_ms for batch in threads], [batch.cpu_ms for batch in prefork])


def _inside(batches: list[Batch]) -> float:
    return median(each for batch in batches for each in batch.inside)
