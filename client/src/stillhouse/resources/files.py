"""Files of OpenAI's fine-tuning jobs: upload one, read about it, read it back, delete it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from stillhouse import _request
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._progress import OnSent, sending
from stillhouse._raw import many_responses
from stillhouse._request import Call, FormUpload
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types import File
from stillhouse.types.requests import ListParams

PATH = "/v1/files"
_PURPOSE = "fine-tune"


def _create(path: Path, key: str | None, on_sent: OnSent) -> Call[File]:
    boundary = uuid.uuid4().hex
    name = path.name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    purpose = f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{_PURPOSE}\r\n'
    file = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    upload = FormUpload(path, on_sent, (purpose + file).encode(), f"\r\n--{boundary}--\r\n".encode())
    length = len(upload.head) + path.stat().st_size + len(upload.tail)
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Content-Length": str(length), **_request.idempotency(key)}
    return Call("POST", PATH, File.model_validate, upload=upload, headers=headers)


def _content(file_id: str) -> Call[Any]:
    return Call("GET", _request.at(PATH, file_id, "content"), lambda body: body)


def _list(params: Mapping[str, Any]) -> Call[Rows[File]]:
    return list_call(PATH, File, dict(params))


class Files(Resource):
    def create(self, path: str | Path, *, idempotency_key: str | None = None, progress: bool = False) -> File:
        """Upload a .jsonl file for a fine-tuning job; it is read while it is sent. `progress` shows a bar.

        The server keeps it as it is; the job that is given it names the lines that it cannot use.
        """
        with sending(Path(path) if progress else None) as on_sent:
            return self._client.send(_create(Path(path), idempotency_key, on_sent))

    def retrieve(self, file_id: str) -> File:
        """Raises NotFoundError."""
        return self._client.send(_request.get(_request.at(PATH, file_id), File))

    def list(self, **params: Unpack[ListParams]) -> Page[File]:
        """One page; iterating over it goes on through all pages after it."""
        return Page(self._client, self._client.send(_list(params)))

    @many_responses
    def download(self, file_id: str, path: str | Path) -> Path:
        """Write a file to `path`, and return that: the bytes as they were sent."""
        with self._client.stream(_content(file_id)) as response, Path(path).open("wb") as out:
            for chunk in response.iter_bytes():
                out.write(chunk)
        return Path(path)

    def delete(self, file_id: str) -> None:
        """Jobs that were given it go on."""
        self._client.send(_request.delete(_request.at(PATH, file_id)))


class AsyncFiles(AsyncResource):
    async def create(self, path: str | Path, *, idempotency_key: str | None = None, progress: bool = False) -> File:
        """Upload a .jsonl file for a fine-tuning job; see `Files.create`."""
        with sending(Path(path) if progress else None) as on_sent:
            return await self._client.send(_create(Path(path), idempotency_key, on_sent))

    async def retrieve(self, file_id: str) -> File:
        """Raises NotFoundError."""
        return await self._client.send(_request.get(_request.at(PATH, file_id), File))

    async def list(self, **params: Unpack[ListParams]) -> AsyncPage[File]:
        """One page; iterating over it goes on through all pages after it."""
        return AsyncPage(self._client, await self._client.send(_list(params)))

    @many_responses
    async def download(self, file_id: str, path: str | Path) -> Path:
        """Write a file to `path`, and return that."""
        async with self._client.stream(_content(file_id)) as response:
            with Path(path).open("wb") as out:
                async for chunk in response.aiter_bytes():
                    out.write(chunk)
        return Path(path)

    async def delete(self, file_id: str) -> None:
        """Jobs that were given it go on."""
        await self._client.send(_request.delete(_request.at(PATH, file_id)))
