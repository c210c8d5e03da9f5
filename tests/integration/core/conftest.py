"""The world of the core's tests; see `world`."""

from pathlib import Path

import pytest

from distill.storage import FolderStore
from tests.integration.core.world import World


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "blobs")


@pytest.fixture
def world(database: str, store: FolderStore) -> World:
    return World(store).build()
