"""Downloading: every file has its digest and its place, or nothing is left behind."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from stillhouse import APIConnectionError, DamagedArtifact, NotFoundError
from stillhouse._load import fetch, resolve
from tests.unit.client.conftest import reply, scripted

FILES = {"manifest.json": b"{}", "lora/weights.safetensors": b"\x00\x01" * 700}


def tarball(files: dict[str, bytes], link: str | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return out.getvalue()


def artifact(files: dict[str, bytes]) -> dict[str, Any]:
    listed = [{"path": p, "size_bytes": len(d), "digest": "sha256:" + hashlib.sha256(d).hexdigest()} for p, d in files.items()]
    return {"id": "art-1", "files": listed}


class TestDownload:
    def test_unpacks_into_the_folder(self, tmp_path: Path) -> None:
        client, _ = scripted(reply(artifact(FILES)), httpx.Response(200, content=tarball(FILES)))
        folder = client.artifacts.download("art-1", tmp_path / "a" / "b")
        assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == FILES

    @pytest.mark.parametrize(
        ("sent", "link"),
        [
            ({**FILES, "manifest.json": b"{ }"}, None),
            ({"manifest.json": b"{}"}, None),
            ({**FILES, "extra": b"x"}, None),
            ({**FILES, "../escape": b"x"}, None),
            (FILES, "manifest.json"),
            (FILES, "link"),
        ],
    )
    def test_damaged_leaves_nothing(self, tmp_path: Path, sent: dict[str, bytes], link: str | None) -> None:
        client, _ = scripted(reply(artifact(FILES)), httpx.Response(200, content=tarball(sent, link)))
        with pytest.raises(DamagedArtifact):
            client.artifacts.download("art-1", tmp_path / "out")
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        assert not (tmp_path.parent / "escape").exists()

    def test_a_listed_path_outside_is_refused(self, tmp_path: Path) -> None:
        files = {"../escape": b"x"}
        client, _ = scripted(reply(artifact(files)), httpx.Response(200, content=tarball(files)))
        with pytest.raises(DamagedArtifact):
            client.artifacts.download("art-1", tmp_path / "out")
        assert not (tmp_path / "escape").exists()

    def test_not_an_archive(self, tmp_path: Path) -> None:
        client, _ = scripted(reply(artifact(FILES)), httpx.Response(200, content=b"nonsense"))
        with pytest.raises(DamagedArtifact):
            client.artifacts.download("art-1", tmp_path / "out")

    def test_a_folder_with_something_in_it_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("x")
        client, _ = scripted(reply(artifact(FILES)), httpx.Response(200, content=tarball(FILES)))
        with pytest.raises(FileExistsError):
            client.artifacts.download("art-1", tmp_path / "out")
        assert (tmp_path / "out" / "mine").read_text() == "x"

    def test_a_second_time_finds_it_there(self, tmp_path: Path) -> None:
        client, script = scripted(reply(artifact(FILES)), httpx.Response(200, content=tarball(FILES)), reply(artifact(FILES)))
        folder = client.artifacts.download("art-1", tmp_path / "out")
        assert client.artifacts.download("art-1", tmp_path / "out") == folder
        assert len(script.requests) == 3

    def test_a_damaged_copy_is_not_written_over(self, tmp_path: Path) -> None:
        client, _ = scripted(reply(artifact(FILES)), httpx.Response(200, content=tarball(FILES)), reply(artifact(FILES)))
        folder = client.artifacts.download("art-1", tmp_path / "out")
        (folder / "manifest.json").write_bytes(b"changed")
        with pytest.raises(FileExistsError):
            client.artifacts.download("art-1", tmp_path / "out")


class TestCache:
    def test_an_intact_copy_needs_no_server(self, tmp_path: Path) -> None:
        client, script = scripted(reply(artifact(FILES)), reply(artifact(FILES)), httpx.Response(200, content=tarball(FILES)))
        folder = fetch("art-1", client, tmp_path)
        asked = len(script.requests)
        assert fetch("art-1", client, tmp_path) == folder
        assert len(script.requests) == asked

    def test_a_damaged_copy_is_fetched_again(self, tmp_path: Path) -> None:
        answers = [reply(artifact(FILES)), reply(artifact(FILES)), httpx.Response(200, content=tarball(FILES))]
        client, _ = scripted(*answers, *answers[:2], httpx.Response(200, content=tarball(FILES)))
        folder = fetch("art-1", client, tmp_path)
        (folder / "manifest.json").write_bytes(b"tampered")
        assert (fetch("art-1", client, tmp_path) / "manifest.json").read_bytes() == b"{}"


class TestAlias:
    NAMED = reply({"id": "alias-1", "name": "router@prod", "artifact": "art-1"})

    def test_is_asked_at_each_load_and_its_artifact_downloaded_once(self, tmp_path: Path) -> None:
        fetched = (reply(artifact(FILES)), reply(artifact(FILES)), httpx.Response(200, content=tarball(FILES)))
        client, script = scripted(self.NAMED, *fetched, self.NAMED)
        folder = resolve("router@prod", client, tmp_path)
        assert resolve("router@prod", client, tmp_path) == folder
        assert [request.url.path for request in script.requests].count("/v1/aliases/router@prod") == 2
        assert len(script.requests) == 5

    def test_while_the_server_is_down_its_last_answer_counts(self, tmp_path: Path) -> None:
        down = httpx.ConnectError("refused")
        fetched = (reply(artifact(FILES)), reply(artifact(FILES)), httpx.Response(200, content=tarball(FILES)))
        client, _ = scripted(self.NAMED, *fetched, down)
        folder = resolve("router@prod", client, tmp_path)
        assert resolve("router@prod", client, tmp_path) == folder
        with pytest.raises(APIConnectionError):
            resolve("router@next", client, tmp_path)

    def test_an_alias_that_is_gone_is_not_served_from_memory(self, tmp_path: Path) -> None:
        fetched = (reply(artifact(FILES)), reply(artifact(FILES)), httpx.Response(200, content=tarball(FILES)))
        client, _ = scripted(self.NAMED, *fetched, reply({"error": {"message": "no alias", "code": "alias_not_found"}}, 404))
        resolve("router@prod", client, tmp_path)
        with pytest.raises(NotFoundError):
            resolve("router@prod", client, tmp_path)
