"""An artifact's tar.gz is the same at every download and holds every byte."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from app.archive import archive
from distill.errors import StorageError
from distill.storage import FolderStore


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "blobs")


def files_of(store: FolderStore, contents: dict[str, bytes]) -> dict[str, Any]:
    return {path: {"digest": store.put(data), "size_bytes": len(data)} for path, data in contents.items()}


class TestArchive:
    def test_holds_every_file(self, store: FolderStore) -> None:
        contents = {"b/weights.bin": bytes(range(256)) * 5000, "a.json": b"{}", "empty": b"", "block": b"x" * 512}
        data = b"".join(archive(store, files_of(store, contents)))
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            members = tar.getmembers()
            assert [member.name for member in members] == sorted(contents)
            assert {member.name: tar.extractfile(member).read() for member in members} == contents  # type: ignore[union-attr]

    def test_bytes_do_not_depend_on_when_or_order(self, store: FolderStore) -> None:
        one = files_of(store, {"a": b"1", "b": b"2"})
        other = dict(reversed(one.items()))
        assert b"".join(archive(store, one)) == b"".join(archive(store, other))

    def test_a_missing_blob_is_an_error(self, store: FolderStore) -> None:
        gone = {"a": {"digest": "sha256:" + "0" * 64, "size_bytes": 1}}
        with pytest.raises(StorageError):
            list(archive(store, gone))
