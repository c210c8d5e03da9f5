"""One world for all scenarios of a run: starting it takes longer than most of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.homes import home
from tests.chaos.invariants import violations
from tests.chaos.jobs import anchors, body, teach
from tests.chaos.world import World


@pytest.fixture(scope="session")
def running_world(tiny_model: Path) -> Iterator[World]:
    with home() as folder, World(folder, tiny_model.parent) as world:
        world.wait_over([world.submit(body(anchors()))])  # so that no two jobs ask at once what all share
        yield world


@pytest.fixture
def world(running_world: World) -> Iterator[World]:
    """The shared world: whole before a scenario, sound after it."""
    running_world.wait_whole()
    yield running_world
    running_world.lm.latency, running_world.lm.answer = running_world.latency, teach
    running_world.wait_whole()
    assert violations(running_world) == []
