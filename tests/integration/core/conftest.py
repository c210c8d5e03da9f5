"""The world of the core's tests; see `world`."""

from pathlib import Path

import pytest

from distill.storage import FolderStore
from tests.integration.core.world import World


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "stillhouse-home" / "blobs")  # where a worker of the same settings looks for it


@pytest.fixture
def world(database: str, store: FolderStore) -> World:
    return World(store).build()
