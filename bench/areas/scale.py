"""A hundred times as many examples: peak memory, and time an example, of bootstrap and prepare on an LM that answers at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from bench.fake_lm import FakeLM
from bench.report import Detail, Figure, figure, measured
from bench.session import Session
from bench.side import Json, Side
from migrations import runner as migrations
from stack.servers import scratch_servers

AREA = "scale"
IN_FLIGHT = 64
STEPS = ("bootstrap", "prepare")


@dataclass(frozen=True)
class Job:
    """One job of `n` examples: MB of the worker and all its children at most, and ms an example of each step."""

    n: int
    peak_mb: float
    step_ms: dict[str, float]
    peak_mb_upto: dict[str, float]

    @property
    def ms(self) -> float:
        return sum(self.step_ms.values())


def measure(session: Session) -> list[Figure]:
    small, large, rounds = session.size(50, 1000), session.size(200, 100_000), session.size(1, 3)
    session.expect(2 + rounds + 1)
    session.tick("starting the database")
    with _servers(session) as environment, FakeLM(0.0, session.environment()) as lm:
        _job(session, environment, lm, session.size(10, 50))  # unpacks the base model, where that was not done before
        few = [_job(session, environment, lm, small) for _ in range(rounds)]
        many = _job(session, environment, lm, large)
    return [_memory(few, many), _wall(few, many)]


@contextmanager
def _servers(session: Session) -> Iterator[dict[str, str]]:
    """A migrated database; its data are on the disk, and nothing is synced, since the disk is not what is measured."""
    with scratch_servers(session.folder("scale-servers")) as servers:
        migrations.upgrade(servers.database_url)
        yield session.environment(
            DATABASE_URL=servers.database_url, REDIS_URL=servers.redis_url, STILLHOUSE_BLOBS__ROOT=str(session.folder("scale-blobs"))
        )


def _job(session: Session, environment: dict[str, str], lm: FakeLM, n: int) -> Job:
    """Every job has a process and an LM's name of its own, so nothing of an earlier one is warm or reused."""
    session.tick(f"{n} examples")
    before = lm.stats()["served"]
    house = {"base_url": lm.url, "models": [session.base_model], "default_student": True, "supports": ["lora"], "trainer": "local"}
    named = {**environment, "STILLHOUSE_CONNECTIONS": json.dumps({"house": house, "teachers": _teacher(lm, before)})}
    with Side("scale_worker", named, session.folder(AREA) / f"{n}.log", patience=3 * 3600) as side:
        reply = side.ask(op="run", n=n, in_flight=IN_FLIGHT)
    return _checked(reply, n, lm.stats()["served"] - before)


def _teacher(lm: FakeLM, number: int) -> Json:
    return {"base_url": lm.url, "models": [f"big-{number}"], "default_teacher": True, "max_in_flight": IN_FLIGHT}


def _checked(reply: Json, n: int, served: int) -> Job:
    """A figure of a job that lost something is no figure."""
    if (reply["rows"], served) != (n, n):
        raise RuntimeError(f"{n} examples gave {reply['rows']} rows for {served} calls")
    return Job(n, reply["peak_mb"], {name: 1000 * reply["steps"][name] / n for name in STEPS}, reply["peak_mb_upto"])


def _memory(few: list[Job], many: Job) -> Figure:
    small = median(job.peak_mb for job in few)
    details: dict[str, Detail] = {"growth": many.peak_mb / small}
    details |= {f"mb_upto_{name}": value for name, value in many.peak_mb_upto.items()}
    wall = measured("MB", "lower", [many.peak_mb], [small])
    return figure(AREA, f"peak memory, {many.n} examples", wall, n=many.n, other_name=_other(few), details=details)


def _wall(few: list[Job], many: Job) -> Figure:
    small = median(job.ms for job in few)
    details: dict[str, Detail] = {"growth": many.ms / small}
    for name in STEPS:
        details |= {f"{name}_ms": many.step_ms[name], f"{name}_ms_other": median(job.step_ms[name] for job in few)}
    wall = measured("ms/example", "lower", [many.ms], [small])
    return figure(AREA, f"bootstrap and prepare, {many.n} examples", wall, n=many.n, other_name=_other(few), details=details)


def _other(few: list[Job]) -> str:
    return f"{few[0].n} examples"
