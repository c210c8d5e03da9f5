"""One world for all scenarios of a run: starting it takes longer than most of them."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.world import World

_SHARED = Path("/dev/shm")
MEMORY = _SHARED if _SHARED.is_dir() else None


@pytest.fixture(scope="session")
def running_world(tiny_model: Path) -> Iterator[World]:
    home = Path(tempfile.mkdtemp(prefix="stillhouse-chaos-", dir=MEMORY))
    try:
        with World(home, tiny_model.parent) as world:
            yield world
    finally:
        shutil.rmtree(home, ignore_errors=True)
