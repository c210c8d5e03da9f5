"""One world for all scenarios of a run: starting it takes longer than most of them."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.world import World

_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def running_world(tiny_model: Path) -> Iterator[World]:
    home = Path(tempfile.mkdtemp(prefix="stillhouse-chaos-", dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        with World(home, tiny_model.parent) as world:
            yield world
    finally:
        shutil.rmtree(home, ignore_errors=True)
