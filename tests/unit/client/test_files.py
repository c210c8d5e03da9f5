"""`client.files`, and the form that a file is sent in."""

from __future__ import annotations

import asyncio
from email import message_from_bytes
from pathlib import Path
from typing import Any

import httpx

from tests.unit.client.conftest import Answer, asked, reply, scripted, scripted_async

PATH = "/v1/files"
STORED: dict[str, Any] = {"id": "file-1", "object": "file", "bytes": 9, "created_at": 1, "filename": "a.jsonl", "purpose": "fine-tune"}
REST = [("POST", PATH), ("GET", PATH), ("GET", f"{PATH}/file-1"), ("GET", f"{PATH}/file-1/content"), ("DELETE", f"{PATH}/file-1")]


def answers() -> list[Answer]:
    page = {"data": [STORED], "has_more": False}
    return [reply(STORED), reply(page), reply(STORED), httpx.Response(200, content=b"the bytes"), reply({"id": "file-1"})]


def parts_of(request: httpx.Request) -> dict[str, tuple[str | None, bytes]]:
    """Name, file name and content of each part, as a mail reader sees the form."""
    form = message_from_bytes(b"Content-Type: " + request.headers["content-type"].encode() + b"\r\n\r\n" + request.content)
    found = {}
    for part in form.walk():
        if not part.is_multipart():
            name = str(part.get_param("name", header="content-disposition"))
            found[name] = (part.get_filename(), bytes(part.get_payload(decode=True)))
    return found


def test_the_client(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"the bytes")
    client, script = scripted(*answers())
    assert client.files.create(tmp_path / "a.jsonl").filename == "a.jsonl"
    assert [file.bytes for file in client.files.list()] == [9]
    assert client.files.retrieve("file-1").purpose == "fine-tune"
    assert client.files.download("file-1", tmp_path / "back").read_bytes() == b"the bytes"
    client.files.delete("file-1")
    assert asked(script) == REST
    sent = script.requests[0]
    assert parts_of(sent) == {"purpose": (None, b"fine-tune"), "file": ("a.jsonl", b"the bytes")}
    assert int(sent.headers["content-length"]) == len(sent.content)
    assert sent.headers["idempotency-key"]


def test_the_async_client_asks_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"the bytes")
    client, script = scripted_async(*answers())

    async def ask() -> None:
        async with client:
            await client.files.create(tmp_path / "a.jsonl")
            await client.files.list()
            await client.files.retrieve("file-1")
            assert (await client.files.download("file-1", tmp_path / "back")).read_bytes() == b"the bytes"
            await client.files.delete("file-1")

    asyncio.run(ask())
    assert asked(script) == REST
    assert parts_of(script.requests[0])["file"] == ("a.jsonl", b"the bytes")


def test_a_name_cannot_end_its_own_quotes(tmp_path: Path) -> None:
    path = tmp_path / 'a"; name="purpose.jsonl'
    path.write_bytes(b"x")
    client, script = scripted(reply(STORED))
    client.files.create(path)
    assert set(parts_of(script.requests[0])) == {"purpose", "file"}
