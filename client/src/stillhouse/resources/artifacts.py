"""Artifacts: list, download with every digest checked, call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from stillhouse import _request
from stillhouse._archive import PATH, Download, is_intact
from stillhouse._exceptions import APIConnectionError
from stillhouse._lock import alone, alone_async
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._raw import many_responses
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types import Artifact, ArtifactCall, ArtifactFile
from stillhouse.types.requests import TaggedListParams


class ArtifactListParams(TaggedListParams, total=False):
    """Arguments of `artifacts.list`."""

    program: str
    """Only of this `program_name`."""


def _retrieve(artifact_id: str) -> Call[Artifact]:
    return _request.get(_request.at(PATH, artifact_id), Artifact)


def _call(artifact_id: str, inputs: Mapping[str, Any], key: str | None) -> Call[ArtifactCall]:
    return _request.create(_request.at(PATH, artifact_id, "call"), ArtifactCall, {"inputs": inputs}, key, timeout=180)


def _list(params: Mapping[str, Any]) -> Call[Rows[Artifact]]:
    return list_call(PATH, Artifact, dict(params))


class Artifacts(Resource):
    def retrieve(self, artifact_id: str) -> Artifact:
        """Raises NotFoundError."""
        return self._client.send(_retrieve(artifact_id))

    def delete(self, artifact_id: str) -> None:
        """Raises ConflictError while an alias points at it."""
        self._client.send(_request.delete(_request.at(PATH, artifact_id)))

    def list(self, **params: Unpack[ArtifactListParams]) -> Page[Artifact]:
        """One page; iterating over it goes on through all pages after it."""
        return Page(self._client, self._client.send(_list(params)))

    @many_responses
    def download(self, artifact_id: str, folder: str | Path) -> Path:
        """Fetch an artifact into `folder`, and return it. A folder that has this artifact already is left as it is.

        A connection that breaks goes on where it broke; after an error the same call again does so too. Who else fetches it into the
        same folder, also from another process, is waited for.

        Raises:
            DamagedArtifact: a file lacks its digest; nothing is left behind.
            FileExistsError: the folder has something else in it.
        """
        artifact, target = self.retrieve(artifact_id), Path(folder)
        if is_intact(target, artifact.files):
            return target
        with alone(target):
            if is_intact(target, artifact.files):
                return target
            download = Download(artifact, target)
            for file in artifact.files:
                while not download.is_here(file):
                    self._fetch(download, file)
            return download.finish()

    def _fetch(self, download: Download, file: ArtifactFile) -> None:
        before, broken = download.size(file), None
        try:
            with self._client.stream(download.call(file)) as response, download.open(file, response) as out:
                for chunk in response.iter_bytes():
                    out.write(chunk)
        except APIConnectionError as error:
            broken = error
        download.tried(file, before, broken)

    def call(self, artifact_id: str, inputs: Mapping[str, Any], *, idempotency_key: str | None = None) -> ArtifactCall:
        """Run the compiled program on the server. With the same key again the answer is the stored one, and no LM is asked."""
        return self._client.send(_call(artifact_id, inputs, idempotency_key))


class AsyncArtifacts(AsyncResource):
    async def retrieve(self, artifact_id: str) -> Artifact:
        """Raises NotFoundError."""
        return await self._client.send(_retrieve(artifact_id))

    async def delete(self, artifact_id: str) -> None:
        """Raises ConflictError while an alias points at it."""
        await self._client.send(_request.delete(_request.at(PATH, artifact_id)))

    async def list(self, **params: Unpack[ArtifactListParams]) -> AsyncPage[Artifact]:
        """One page; iterating over it goes on through all pages after it."""
        return AsyncPage(self._client, await self._client.send(_list(params)))

    @many_responses
    async def download(self, artifact_id: str, folder: str | Path) -> Path:
        """Fetch an artifact into `folder`; see `Artifacts.download`."""
        artifact, target = await self.retrieve(artifact_id), Path(folder)
        if is_intact(target, artifact.files):
            return target
        async with alone_async(target):
            if is_intact(target, artifact.files):
                return target
            download = Download(artifact, target)
            for file in artifact.files:
                while not download.is_here(file):
                    await self._fetch(download, file)
            return download.finish()

    async def _fetch(self, download: Download, file: ArtifactFile) -> None:
        before, broken = download.size(file), None
        try:
            async with self._client.stream(download.call(file)) as response:
                with download.open(file, response) as out:
                    async for chunk in response.aiter_bytes():
                        out.write(chunk)
        except APIConnectionError as error:
            broken = error
        download.tried(file, before, broken)

    async def call(self, artifact_id: str, inputs: Mapping[str, Any], *, idempotency_key: str | None = None) -> ArtifactCall:
        """Run the compiled program on the server; see `Artifacts.call`."""
        return await self._client.send(_call(artifact_id, inputs, idempotency_key))
