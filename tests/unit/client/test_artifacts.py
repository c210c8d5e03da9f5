"""Downloading: every file has its digest and its place, or nothing is left behind."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from stillhouse import APIConnectionError, DamagedArtifact, NotFoundError, Stillhouse
from stillhouse._load import fetch, resolve
from tests.unit.client.conftest import Answer, reply, scripted, scripted_async

FILES = {"manifest.json": b"{}", "lora/weights.safetensors": b"\x00\x01" * 700}


def served(files: dict[str, bytes], breaks_after: int | None = None) -> Callable[[httpx.Request], httpx.Response]:
    """A server of one artifact's files that knows ranges; with `breaks_after` each connection ends after so many bytes."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1/artifacts/art-1/files/")
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        body = files[path][start:]
        return httpx.Response(206 if start else 200, content=body if breaks_after is None else broken(body, breaks_after))

    return answer


def broken(body: bytes, after: int) -> Iterator[bytes]:
    yield body[:after]
    if len(body) > after:
        raise httpx.ReadError("gone")


def artifact(files: dict[str, bytes]) -> dict[str, Any]:
    listed = [{"path": p, "size_bytes": len(d), "digest": "sha256:" + hashlib.sha256(d).hexdigest()} for p, d in files.items()]
    return {"id": "art-1", "files": listed}


def sizes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class TestDownload:
    def test_every_file_has_its_place(self, tmp_path: Path) -> None:
        client, _ = scripted(reply(artifact(FILES)), served(FILES))
        folder = client.artifacts.download("art-1", tmp_path / "a" / "b")
        assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == FILES
        assert [path.name for path in folder.parent.iterdir()] == ["b"]

    def test_a_connection_that_breaks_goes_on_where_it_broke(self, tmp_path: Path) -> None:
        client, script = scripted(reply(artifact(FILES)), served(FILES, breaks_after=500))
        folder = client.artifacts.download("art-1", tmp_path / "out")
        assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == FILES
        ranges = [request.headers.get("range") for request in script.requests if "weights" in request.url.path]
        assert ranges == [None, "bytes=500-", "bytes=1000-"]

    def test_after_an_outage_another_process_goes_on(self, tmp_path: Path) -> None:
        flaky = served(FILES, breaks_after=900)
        client, _ = scripted(reply(artifact(FILES)), flaky, flaky, httpx.ConnectError("down"), max_retries=0)
        with pytest.raises(APIConnectionError):
            client.artifacts.download("art-1", tmp_path / "out")
        assert (sizes_in(tmp_path), (tmp_path / "out").exists()) == (2 + 900, False)
        again, script = scripted(reply(artifact(FILES)), served(FILES))
        again.artifacts.download("art-1", tmp_path / "out")
        assert [request.headers.get("range") for request in script.requests[1:]] == ["bytes=900-"]

    def test_a_server_without_ranges_sends_it_from_the_start(self, tmp_path: Path) -> None:
        whole = httpx.Response(200, content=FILES["lora/weights.safetensors"])
        weights = {"lora/weights.safetensors": FILES["lora/weights.safetensors"]}
        client, _ = scripted(reply(artifact(weights)), served(weights, breaks_after=500), whole)
        folder = client.artifacts.download("art-1", tmp_path / "out")
        assert (folder / "lora/weights.safetensors").read_bytes() == FILES["lora/weights.safetensors"]

    def test_a_server_that_sends_too_little_is_given_up(self, tmp_path: Path) -> None:
        client, script = scripted(reply(artifact(FILES)), served({**FILES, "manifest.json": b""}))
        with pytest.raises(DamagedArtifact, match="less of manifest"):
            client.artifacts.download("art-1", tmp_path / "out")
        assert len(script.requests) == 7

    @pytest.mark.parametrize("sent", [{**FILES, "manifest.json": b"[]"}, {**FILES, "manifest.json": b"{} and more"}], ids=["other", "more"])
    def test_damaged_leaves_nothing(self, tmp_path: Path, sent: dict[str, bytes]) -> None:
        client, _ = scripted(reply(artifact(FILES)), served(sent))
        with pytest.raises(DamagedArtifact):
            client.artifacts.download("art-1", tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_a_listed_path_outside_is_refused(self, tmp_path: Path) -> None:
        client, script = scripted(reply(artifact({"../escape": b"x"})))
        with pytest.raises(DamagedArtifact):
            client.artifacts.download("art-1", tmp_path / "out")
        assert len(script.requests) == 1

    def test_a_folder_with_something_in_it_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("x")
        client, _ = scripted(reply(artifact(FILES)), served(FILES))
        with pytest.raises(FileExistsError):
            client.artifacts.download("art-1", tmp_path / "out")
        assert (tmp_path / "out" / "mine").read_text() == "x"

    def test_a_second_time_finds_it_there(self, tmp_path: Path) -> None:
        client, script = scripted(reply(artifact(FILES)), served(FILES), served(FILES), reply(artifact(FILES)))
        folder = client.artifacts.download("art-1", tmp_path / "out")
        assert client.artifacts.download("art-1", tmp_path / "out") == folder
        assert len(script.requests) == 4

    def test_a_damaged_copy_is_not_written_over(self, tmp_path: Path) -> None:
        client, _ = scripted(reply(artifact(FILES)), served(FILES), served(FILES), reply(artifact(FILES)))
        folder = client.artifacts.download("art-1", tmp_path / "out")
        (folder / "manifest.json").write_bytes(b"changed")
        with pytest.raises(FileExistsError):
            client.artifacts.download("art-1", tmp_path / "out")

    def test_async(self, tmp_path: Path) -> None:
        async def go() -> Path:
            client, _ = scripted_async(reply(artifact(FILES)), served(FILES))
            async with client:
                return await client.artifacts.download("art-1", tmp_path / "out")

        assert (asyncio.run(go()) / "lora/weights.safetensors").read_bytes() == FILES["lora/weights.safetensors"]


class TestTogether:
    """Services that start together have one folder: a second one begins while the first is in the middle of a file."""

    ONE = "lora/weights.safetensors"
    BESIDE_SECONDS = 0.5

    @pytest.mark.parametrize(
        "get", [lambda client, base: client.artifacts.download("art-1", base / "art-1"), lambda *to: fetch("art-1", *to)]
    )
    def test_the_second_waits_and_finds_it_there(self, tmp_path: Path, get: Callable[[Stillhouse, Path], Path]) -> None:
        got: list[Path] = []

        def answer(request: httpx.Request) -> httpx.Response:
            return served(FILES)(request) if "files" in request.url.path else reply(artifact(FILES))

        def begin() -> None:
            got.append(get(scripted(answer)[0], tmp_path))

        def meanwhile(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, content=body()) if request.url.path.endswith(self.ONE) else answer(request)

        def body() -> Iterator[bytes]:
            yield FILES[self.ONE][:500]
            other.start()
            other.join(self.BESIDE_SECONDS)
            yield FILES[self.ONE][500:]

        other = threading.Thread(target=begin)
        got.append(get(scripted(meanwhile)[0], tmp_path))
        other.join()
        assert got == [tmp_path / "art-1"] * 2
        assert {str(path.relative_to(got[0])): path.read_bytes() for path in got[0].rglob("*") if path.is_file()} == FILES
        assert not list(tmp_path.glob(".*"))

    def test_async(self, tmp_path: Path) -> None:
        async def slow(path: str) -> AsyncIterator[bytes]:
            for start in range(0, len(FILES[path]), 500):
                await asyncio.sleep(0.05)
                yield FILES[path][start : start + 500]

        def answer(request: httpx.Request) -> httpx.Response:
            path = request.url.path.removeprefix("/v1/artifacts/art-1/files/")
            return httpx.Response(200, content=slow(path)) if path in FILES else reply(artifact(FILES))

        async def go() -> list[Path]:
            client, _ = scripted_async(answer)
            async with client:
                return await asyncio.gather(*(client.artifacts.download("art-1", tmp_path / "out") for _ in range(2)))

        assert asyncio.run(go()) == [tmp_path / "out"] * 2
        assert (tmp_path / "out" / self.ONE).read_bytes() == FILES[self.ONE]


FETCHED: tuple[Answer, ...] = (reply(artifact(FILES)), reply(artifact(FILES)), served(FILES), served(FILES))


class TestCache:
    def test_an_intact_copy_needs_no_server(self, tmp_path: Path) -> None:
        client, script = scripted(*FETCHED)
        folder = fetch("art-1", client, tmp_path)
        asked = len(script.requests)
        assert fetch("art-1", client, tmp_path) == folder
        assert len(script.requests) == asked

    def test_a_damaged_copy_is_fetched_again(self, tmp_path: Path) -> None:
        client, _ = scripted(*FETCHED, *FETCHED)
        folder = fetch("art-1", client, tmp_path)
        (folder / "manifest.json").write_bytes(b"tampered")
        assert (fetch("art-1", client, tmp_path) / "manifest.json").read_bytes() == b"{}"


class TestAlias:
    NAMED = reply({"id": "alias-1", "name": "router@prod", "artifact": "art-1"})

    def test_is_asked_at_each_load_and_its_artifact_downloaded_once(self, tmp_path: Path) -> None:
        client, script = scripted(self.NAMED, *FETCHED, self.NAMED)
        folder = resolve("router@prod", client, tmp_path)
        assert resolve("router@prod", client, tmp_path) == folder
        assert [request.url.path for request in script.requests].count("/v1/aliases/router@prod") == 2
        assert len(script.requests) == 6

    def test_while_the_server_is_down_its_last_answer_counts(self, tmp_path: Path) -> None:
        down = httpx.ConnectError("refused")
        client, _ = scripted(self.NAMED, *FETCHED, down)
        folder = resolve("router@prod", client, tmp_path)
        assert resolve("router@prod", client, tmp_path) == folder
        with pytest.raises(APIConnectionError):
            resolve("router@next", client, tmp_path)

    def test_an_alias_that_is_gone_is_not_served_from_memory(self, tmp_path: Path) -> None:
        client, _ = scripted(self.NAMED, *FETCHED, reply({"error": {"message": "no alias", "code": "alias_not_found"}}, 404))
        resolve("router@prod", client, tmp_path)
        with pytest.raises(NotFoundError):
            resolve("router@prod", client, tmp_path)
