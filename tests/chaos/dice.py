"""What chance decides in a random run, by its seed: the jobs with what their clients do, and the faults.

The n-th job and the n-th fault of a seed are the same in every run, on any machine; which process happens to do what when a fault strikes
is not.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import psutil

from distill.sandbox import choose
from tests.chaos import faults, shortages, trainings
from tests.chaos.jobs import OWN_METRIC, anchors, body, odd, sure
from tests.chaos.world import World
from tests.support.scripted_lm import Fail, HangUp

Client = Literal["waits", "cancels", "pauses", "starts late", "sends twice"]
CLIENTS: dict[Client, int] = {"waits": 66, "cancels": 10, "pauses": 10, "starts late": 7, "sends twice": 7}
TRAINED = 0.03
"""The share of jobs that train on rows of their own; the others find their training done."""
OWN_CODE = 0.1
"""The share of jobs whose metric is code of their users: it runs in a sandbox, where the machine has one."""
CHECKPOINT_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """One job. `moments` are the seconds that its client lets pass before each thing it does; `retries` is how often it does so."""

    name: str
    body: dict[str, Any]
    client: Client
    moments: tuple[float, float]
    retries: int


def plan(seed: int, number: int) -> Plan:
    """The job of this number."""
    dice = Random(f"{seed} job {number}")
    name = f"{seed}-{number}"
    client = dice.choices(list(CLIENTS), list(CLIENTS.values()))[0]
    rows = (sure(name, 2) if dice.random() < TRAINED else anchors()) + odd(name, dice.randint(1, 8))
    wanted = body(rows, num_threads=dice.randint(1, 4), auto_start=client != "starts late")
    moments, retries = (dice.uniform(0, 4), dice.uniform(0, 2)), dice.randint(0, 2)
    if dice.random() < OWN_CODE and choose().rung is not None:
        wanted["metric"] = OWN_METRIC
    return Plan(name, wanted, client, moments, retries)


# ------------------------------------------------------------ faults

Strike = Callable[[World, Random], None]


class Missed(Exception):
    """A fault found nothing to strike."""


def _signal_part(number: int, *parts: str) -> Strike:
    def strike(world: World, dice: Random) -> None:
        faults.kill(world, dice.choice(parts or world.worker_names), number)

    return strike


def _stall_part(longest: float, *parts: str) -> Strike:
    def strike(world: World, dice: Random) -> None:
        with faults.stalled(world, dice.choice(parts or world.worker_names)):
            faults.pause(dice.uniform(0.2, longest))

    return strike


def _on_child(find: Callable[[World], list[psutil.Process]], do: Callable[[World, Random, psutil.Process], None]) -> Strike:
    def strike(world: World, dice: Random) -> None:
        which = dice.random()
        if not (found := find(world)):
            raise Missed
        do(world, dice, found[int(which * len(found))])

    return strike


def _kill_child(world: World, _dice: Random, child: psutil.Process) -> None:
    faults.kill_child(world, child)


def _stall_child(world: World, dice: Random, child: psutil.Process) -> None:
    with world.disrupted("SIGSTOP child", faults.AFTER_SECONDS, faults.worker_of(world, child)), contextlib.suppress(psutil.Error):
        child.suspend()
        faults.pause(dice.uniform(0.2, 5))
        child.resume()


_one_trouble = threading.Lock()
"""The teacher has one trouble at a time, which ends before another begins."""


def _refusing(fail: Fail) -> Strike:
    def strike(world: World, dice: Random) -> None:
        with _one_trouble, faults.teacher_trouble(world, fail):
            faults.pause(dice.uniform(0.2, 2))

    return strike


def _slow(world: World, dice: Random) -> None:
    with _one_trouble, faults.teacher_trouble(world, None, latency=1.5):
        faults.pause(dice.uniform(0.2, 3))


def _hanging_up(world: World, dice: Random) -> None:
    """Answers that are lost on their way were paid for."""
    with _one_trouble, world.disrupted("teacher hangs up", faults.AFTER_SECONDS):
        world.lm.fault = HangUp()
        faults.pause(dice.uniform(0.2, 2))
        world.lm.fault = None


def _hints(world: World, dice: Random) -> None:
    for queue in ("light", "rollouts", "train"):
        faults.send_hints(world, queue, dice.randint(1, 5))


def _redis_is_full(world: World, dice: Random) -> None:
    with shortages.redis_full(world):
        faults.pause(dice.uniform(0.2, 3))


def _no_connections(world: World, dice: Random) -> None:
    with shortages.without_connections(world):
        faults.pause(dice.uniform(0.2, 2))


def _kill_at_checkpoint(world: World, dice: Random) -> None:
    """Of a training of its own: those of the clients are too short and too few to be met at a checkpoint."""
    trainings.submit(world, f"met at a checkpoint {dice.random()}")
    if shortages.kill_trainer_at_checkpoint(world, CHECKPOINT_PATIENCE_SECONDS) is None:
        raise Missed


def _stalled_clients(world: World, dice: Random) -> None:
    with shortages.stalled_clients(world):
        faults.pause(dice.uniform(1, 8))


def _flush(world: World, _dice: Random) -> None:
    faults.flush_redis(world)


FAULTS: dict[str, tuple[int, Strike]] = {
    "kill -9 of a worker": (16, _signal_part(signal.SIGKILL)),
    "SIGTERM to a worker": (8, _signal_part(signal.SIGTERM)),
    "a worker stands still": (10, _stall_part(8)),
    "kill -9 of a runner": (10, _on_child(faults.runners, _kill_child)),
    "a runner stands still": (4, _on_child(faults.runners, _stall_child)),
    "kill -9 of a trainer": (4, _on_child(faults.trainers, _kill_child)),
    "a trainer stands still": (2, _on_child(faults.trainers, _stall_child)),
    "kill -9 of the dispatcher": (4, _signal_part(signal.SIGKILL, "dispatcher")),
    "SIGTERM to the dispatcher": (2, _signal_part(signal.SIGTERM, "dispatcher")),
    "the dispatcher stands still": (2, _stall_part(4, "dispatcher")),
    "kill -9 of the API": (4, _signal_part(signal.SIGKILL, "api")),
    "SIGTERM to the API": (2, _signal_part(signal.SIGTERM, "api")),
    "the API stands still": (2, _stall_part(3, "api")),
    "FLUSHALL": (6, _flush),
    "kill -9 of Valkey": (4, _signal_part(signal.SIGKILL, "valkey")),
    "Valkey stands still": (2, _stall_part(6, "valkey")),
    "Valkey cuts all connections": (3, lambda world, _: faults.cut_redis(world)),
    "PostgreSQL restarts": (6, lambda world, _: faults.restart_postgres(world)),
    "PostgreSQL ends all connections": (6, lambda world, _: faults.terminate_backends(world)),
    "the teacher answers 429": (4, _refusing(Fail(429, "rate_limit", retry_after=1))),
    "the teacher answers 500": (4, _refusing(Fail(500))),
    "the teacher hangs up": (3, _hanging_up),
    "the teacher is slow": (4, _slow),
    "hints come several times": (5, _hints),
    "Valkey is at maxmemory": (4, _redis_is_full),
    "PostgreSQL has no free connection": (4, _no_connections),
    "kill -9 of a trainer at a checkpoint": (3, _kill_at_checkpoint),
    "clients stall": (3, _stalled_clients),
}


@dataclass(frozen=True)
class Fault:
    """What strikes, and chance for what is left open."""

    name: str
    strike: Callable[[World], None]


def fault(seed: int, number: int) -> Fault:
    """The fault of this number."""
    dice = Random(f"{seed} fault {number}")
    name = dice.choices(list(FAULTS), [weight for weight, _ in FAULTS.values()])[0]
    return Fault(name, lambda world: FAULTS[name][1](world, dice))


def plans(seed: int, runs: int) -> Iterator[Plan]:
    return (plan(seed, number) for number in range(runs))
