"""Health checks of a blob store that does not answer, or is gone."""

import threading
from pathlib import Path

import pytest

from app import readiness
from app.readiness import StoreCheck
from distill.errors import StorageUnavailable
from distill.storage import FolderStore


class SlowStore(FolderStore):
    """Answers once it is let."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked = 0
        self.answers = threading.Event()

    def owner(self) -> str | None:
        self.asked += 1
        self.answers.wait(60)
        return super().owner()


def test_a_store_that_hangs_is_asked_once_and_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "LONGEST_WAIT_SECONDS", 0.01)
    store = SlowStore(tmp_path / "blobs")
    store.claim_for("store-1")
    store.asked = 0
    check = StoreCheck(store)
    for _ in range(3):
        with pytest.raises(StorageUnavailable, match="does not answer in time"):
            check.check()
    assert store.asked == 1
    store.answers.set()
    monkeypatch.setattr(readiness, "LONGEST_WAIT_SECONDS", 60)
    check.check()
    assert store.asked == 1


def test_a_folder_that_is_not_mounted_any_more_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "FRESH_SECONDS", 0.0)
    store = FolderStore(tmp_path / "blobs")
    store.claim_for("store-1")
    check = StoreCheck(store)
    check.check()
    (tmp_path / "blobs").rename(tmp_path / "unmounted")
    with pytest.raises(StorageUnavailable, match="empty or not mounted"):
        check.check()
