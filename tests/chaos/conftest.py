"""One world for all scenarios of a run: starting it takes longer than most of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.homes import home
from tests.chaos.world import World


@pytest.fixture(scope="session")
def running_world(tiny_model: Path) -> Iterator[World]:
    with home() as folder, World(folder, tiny_model.parent) as world:
        yield world
