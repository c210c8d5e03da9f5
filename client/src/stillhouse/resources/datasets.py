"""Datasets: upload rows or a file, read them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from stillhouse import _request
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._progress import OnSent, sending
from stillhouse._request import Call, Cascade, Upload
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types import Dataset, DatasetRows, Deletion
from stillhouse.types.requests import TaggedListParams

PATH = "/v1/datasets"
CONTENT_TYPES: Mapping[str, str] = {
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
}

RowSource = Sequence[Mapping[str, Any]] | str | Path
"""Rows, or the path of a .jsonl, .csv, .parquet or .json file."""


def _create(rows: RowSource, name: str | None, metadata: Mapping[str, str] | None, key: str | None, on_sent: OnSent) -> Call[Dataset]:
    if (path := _file_of(rows)) is not None:
        return _upload(Upload(path, on_sent), name, metadata, key)
    body = _request.given({"rows": _rows(rows), "name": name, "metadata": metadata})
    return _request.create(PATH, Dataset, body, key)


def _file_of(rows: RowSource) -> Path | None:
    """A file that is sent as it is; JSON is read first."""
    return Path(rows) if isinstance(rows, (str, Path)) and Path(rows).suffix in CONTENT_TYPES else None


def _rows(rows: RowSource) -> list[Mapping[str, Any]]:
    if not isinstance(rows, (str, Path)):
        return [dict(row) for row in rows]
    import json

    loaded = json.loads(Path(rows).read_text(encoding="utf-8"))
    return list(loaded["rows"] if isinstance(loaded, dict) else loaded)


def _upload(upload: Upload, name: str | None, metadata: Mapping[str, str] | None, key: str | None) -> Call[Dataset]:
    params = _request.given({"name": name, **_request.metadata_filters(metadata)})
    length = {"Content-Length": str(upload.path.stat().st_size)}
    headers = {"Content-Type": CONTENT_TYPES[upload.path.suffix], **length, **_request.idempotency(key)}
    return Call("POST", PATH, Dataset.model_validate, params=params, upload=upload, headers=headers)


def _list(params: Mapping[str, Any]) -> Call[Rows[Dataset]]:
    return list_call(PATH, Dataset, dict(params))


def _read_rows(dataset_id: str, start: int, limit: int) -> Call[DatasetRows]:
    return _request.get(_request.at(PATH, dataset_id, "rows"), DatasetRows, start=start, limit=limit)


class Datasets(Resource):
    def create(
        self,
        rows: RowSource,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        progress: bool = False,
    ) -> Dataset:
        """Upload rows, or a .jsonl, .csv, .parquet or .json file; a file is read while it is sent. `progress` shows a bar.

        Raises:
            UnprocessableEntityError: `details` names the rows that cannot be used; nothing was stored.
        """
        with sending(_file_of(rows) if progress else None) as on_sent:
            return self._client.send(_create(rows, name, metadata, idempotency_key, on_sent))

    def retrieve(self, dataset_id: str) -> Dataset:
        """Raises NotFoundError."""
        return self._client.send(_request.get(_request.at(PATH, dataset_id), Dataset))

    def list(self, **params: Unpack[TaggedListParams]) -> Page[Dataset]:
        """One page; iterating over it goes on through all pages after it."""
        return Page(self._client, self._client.send(_list(params)))

    def delete(self, dataset_id: str, *, dry_run: bool = False, cascade: Cascade | None = None) -> Deletion:
        """Erase its rows and what came from them; with `dry_run`, only say what that would remove.

        Artifacts and models stay unless `cascade="artifacts"` is given. Of `name@latest` the id is read first, for retries.

        Raises:
            NotFoundError: there is no such dataset.
            ConflictError: a job of it is not over, or an alias points at an artifact that would be deleted.
        """
        if dataset_id.endswith("@latest"):
            dataset_id = self.retrieve(dataset_id).id
        return self._client.send(_request.erase(_request.at(PATH, dataset_id), dry_run=dry_run, cascade=cascade))

    def rows(self, dataset_id: str, *, start: int = 1, limit: int = 100) -> DatasetRows:
        """`limit` rows from row `start`, counted from 1."""
        return self._client.send(_read_rows(dataset_id, start, limit))


class AsyncDatasets(AsyncResource):
    async def create(
        self,
        rows: RowSource,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        progress: bool = False,
    ) -> Dataset:
        """Upload rows, or a .jsonl, .csv, .parquet or .json file; see `Datasets.create`."""
        with sending(_file_of(rows) if progress else None) as on_sent:
            return await self._client.send(_create(rows, name, metadata, idempotency_key, on_sent))

    async def retrieve(self, dataset_id: str) -> Dataset:
        """Raises NotFoundError."""
        return await self._client.send(_request.get(_request.at(PATH, dataset_id), Dataset))

    async def list(self, **params: Unpack[TaggedListParams]) -> AsyncPage[Dataset]:
        """One page; iterating over it goes on through all pages after it."""
        return AsyncPage(self._client, await self._client.send(_list(params)))

    async def delete(self, dataset_id: str, *, dry_run: bool = False, cascade: Cascade | None = None) -> Deletion:
        """Erase its rows and what came from them; see `Datasets.delete`."""
        if dataset_id.endswith("@latest"):
            dataset_id = (await self.retrieve(dataset_id)).id
        return await self._client.send(_request.erase(_request.at(PATH, dataset_id), dry_run=dry_run, cascade=cascade))

    async def rows(self, dataset_id: str, *, start: int = 1, limit: int = 100) -> DatasetRows:
        """`limit` rows from row `start`, counted from 1."""
        return await self._client.send(_read_rows(dataset_id, start, limit))
