"""Trainer, LM host and agent of a device die in any order, at any moment of a hand-over: the job ends well, and the host serves its model.

What must hold after each: nobody has the device, no connection waits, every placement is ready, the host is awake with the models, and
the invariants of all scenarios (no trainer or runner left among them).
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from stack.network import free_port
from stack.parts import Part
from stack.plan import Layout, lm_agent_command
from tests.chaos import faults
from tests.chaos.homes import home
from tests.chaos.invariants import violations
from tests.chaos.jobs import anchors, body, odd, sure
from tests.chaos.world import World
from tests.support.server_process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DEVICE = "gpu-0"
HOST, AGENT = "lm-host", "lm-agent"
ORDERS = [order for length in (1, 2, 3) for order in itertools.permutations(("trainer", HOST, AGENT), length)]
WITHOUT_TRAINER = [order for length in (1, 2) for order in itertools.permutations((HOST, AGENT), length)]


@dataclass
class DeviceWorld(World):
    """A world whose student's LM host shares its device with the trainer, and has its agent."""

    def __post_init__(self) -> None:
        self.host_port = free_port()
        self.slow = self.home / "slow"

    def _environment(self) -> dict[str, str]:
        environment = super()._environment()
        connections = json.loads(environment["STILLHOUSE_CONNECTIONS"])
        connections["house"] |= {"base_url": f"{self.host_url}/v1", "device": DEVICE}
        on_devices = json.dumps({DEVICE: {"on_train": "pause"}})
        return {**environment, "STILLHOUSE_CONNECTIONS": json.dumps(connections), "STILLHOUSE_DEVICES": on_devices}

    def _parts(self, layout: Layout) -> Sequence[Part]:
        host = ("-m", "tests.chaos.lm_host", "--port", str(self.host_port), "--slow", str(self.slow))
        python, *agent = lm_agent_command("house")
        added = [self._part(layout, HOST, (python, *host)), self._part(layout, AGENT, (python, *agent))]
        return [*added, *super()._parts(layout)]

    @property
    def host_url(self) -> str:
        return f"http://127.0.0.1:{self.host_port}"

    # ------------------------------------------------------------ looking

    def device(self) -> tuple[bool, bool]:
        """Whether an item leases the device, and whether the host has let it go."""
        found = self.query("SELECT item_id IS NOT NULL, acknowledged_at IS NOT NULL FROM devices WHERE id = %s", DEVICE)
        return found[0] if found else (False, False)

    def trains(self) -> bool:
        return self.device() == (True, True) and bool(faults.trainers(self))

    def host_serves(self) -> set[str]:
        """The models that it lists; none while it sleeps or is away."""
        try:
            if httpx.get(f"{self.host_url}/is_sleeping").json()["is_sleeping"]:
                return set()
            return {entry["id"] for entry in httpx.get(f"{self.host_url}/v1/models").json()["data"]}
        except httpx.TransportError:
            return set()

    def is_at_rest(self) -> bool:
        """The device is the host's again, and whatever waited for that goes on."""
        stuck = "SELECT 1 FROM connections WHERE waiting_since IS NOT NULL UNION ALL SELECT 1 FROM placements WHERE status <> 'ready'"
        wanted = {model for (model,) in self.query("SELECT model_id FROM placements")}
        return self.device() == (False, False) and not self.query(stuck) and wanted <= self.host_serves()

    # ------------------------------------------------------------ killing

    def end(self, who: str) -> None:
        if who == "trainer":
            for trainer in faults.trainers(self):
                faults.kill_child(self, trainer)
        else:
            faults.kill(self, who)


@pytest.fixture(scope="module")
def running(tiny_model: Path) -> Iterator[DeviceWorld]:
    with home() as folder, DeviceWorld(folder, tiny_model.parent) as world:
        yield world


@pytest.fixture
def world(running: DeviceWorld) -> Iterator[DeviceWorld]:
    """At rest before each, and after it."""
    running.wait_whole()
    yield running
    running.slow.unlink(missing_ok=True)
    running.wait_whole()
    wait_until(running.is_at_rest, f"the device did not come back: {running.device()}, the host serves {running.host_serves()}")
    assert violations(running) == []


def submit(world: DeviceWorld, name: str) -> str:
    """A job that trains, since its rows are its own, and asks its model afterwards."""
    rows = anchors() + sure(name, 4)
    return world.submit(body(rows, valset=odd(name, 2)))


def survives(world: DeviceWorld, name: str, moment: Callable[[], bool], order: Sequence[str]) -> None:
    job = submit(world, name)
    wait_until(moment, f"the moment to kill {order} did not come")
    for who in order:
        world.end(who)
    world.slow.unlink(missing_ok=True)
    world.wait_over([job], 150)
    assert world.status(job) == "succeeded", world.query("SELECT error FROM jobs WHERE id = %s", job)


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_while_it_trains(world: DeviceWorld, order: tuple[str, ...]) -> None:
    survives(world, f"train {' '.join(order)}", world.trains, order)


@pytest.mark.parametrize("order", WITHOUT_TRAINER, ids="-".join)
def test_while_the_host_lets_go(world: DeviceWorld, order: tuple[str, ...]) -> None:
    world.slow.touch()
    survives(world, f"let go {' '.join(order)}", lambda: world.device() == (True, False), order)


@pytest.mark.parametrize("order", WITHOUT_TRAINER, ids="-".join)
def test_while_the_host_comes_back(world: DeviceWorld, order: tuple[str, ...]) -> None:
    job = submit(world, f"come back {' '.join(order)}")
    wait_until(world.trains, "nothing is trained")
    world.slow.touch()
    wait_until(lambda: world.device() == (False, False), "the device was not given back")
    for who in order:
        world.end(who)
    world.slow.unlink()
    world.wait_over([job], 150)
    assert world.status(job) == "succeeded"


def test_with_the_worker_too(world: DeviceWorld) -> None:
    """The lease is the reaper's to end; the next holder gets the device by a hand-over of its own."""
    job = submit(world, "worker")
    wait_until(world.trains, "nothing is trained")
    for who in (world.wait_held(job, "train"), AGENT, HOST):
        world.end(who)
    world.wait_over([job], 150)
    assert world.status(job) == "succeeded"
    assert world.query("SELECT fence FROM devices WHERE id = %s", DEVICE)[0][0] >= 2


def test_a_cancel_while_it_trains(world: DeviceWorld) -> None:
    """The trainer is gone, nothing is published, and the host serves again."""
    job = submit(world, "cancelled")
    wait_until(world.trains, "nothing is trained")
    assert world.ask(job, "cancel") == 200
    world.wait_over([job])
    assert world.status(job) == "cancelled"
    wait_until(lambda: not faults.trainers(world), "the trainer of a cancelled job still runs")
    assert world.query("SELECT id FROM models WHERE job_id = %s", job) == []
