"""Datasets: upload rows or a file, read them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from stillhouse import _request
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.types import Dataset, DatasetRows
from stillhouse.types.requests import ListParams

if TYPE_CHECKING:
    from stillhouse._client import AsyncStillhouse, Stillhouse

PATH = "/v1/datasets"
CONTENT_TYPES: Mapping[str, str] = {
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
}

RowSource = Sequence[Mapping[str, Any]] | str | Path
"""Rows, or the path of a .jsonl, .csv, .parquet or .json file."""


def _create(rows: RowSource, name: str | None, metadata: Mapping[str, str] | None, key: str | None) -> Call[Dataset]:
    if isinstance(rows, (str, Path)) and Path(rows).suffix in CONTENT_TYPES:
        return _upload(Path(rows), name, metadata, key)
    body = _request.given({"rows": _rows(rows), "name": name, "metadata": metadata})
    return _request.create(PATH, Dataset, body, key)


def _rows(rows: RowSource) -> list[Mapping[str, Any]]:
    if not isinstance(rows, (str, Path)):
        return [dict(row) for row in rows]
    import json

    loaded = json.loads(Path(rows).read_text(encoding="utf-8"))
    return list(loaded["rows"] if isinstance(loaded, dict) else loaded)


def _upload(path: Path, name: str | None, metadata: Mapping[str, str] | None, key: str | None) -> Call[Dataset]:
    params = _request.given({"name": name, **_request.metadata_filters(metadata)})
    headers = {"Content-Type": CONTENT_TYPES[path.suffix], **_request.idempotency(key)}
    return Call("POST", PATH, Dataset.model_validate, params=params, content=path.read_bytes(), headers=headers)


def _list(params: Mapping[str, Any]) -> Call[Rows[Dataset]]:
    return list_call(PATH, Dataset, dict(params))


def _read_rows(dataset_id: str, start: int, limit: int) -> Call[DatasetRows]:
    return _request.get(f"{PATH}/{dataset_id}/rows", DatasetRows, start=start, limit=limit)


class Datasets:
    def __init__(self, client: Stillhouse) -> None:
        self._client = client

    def create(
        self,
        rows: RowSource,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Dataset:
        """Upload rows, or a .jsonl, .csv, .parquet or .json file. Raises UnprocessableEntityError with the rows that cannot be used."""
        return self._client.send(_create(rows, name, metadata, idempotency_key))

    def retrieve(self, dataset_id: str) -> Dataset:
        return self._client.send(_request.get(f"{PATH}/{dataset_id}", Dataset))

    def list(self, **params: Unpack[ListParams]) -> Page[Dataset]:
        return Page(self._client, self._client.send(_list(params)))

    def delete(self, dataset_id: str) -> None:
        self._client.send(_request.delete(f"{PATH}/{dataset_id}"))

    def rows(self, dataset_id: str, *, start: int = 1, limit: int = 100) -> DatasetRows:
        """`limit` rows from row `start`, counted from 1."""
        return self._client.send(_read_rows(dataset_id, start, limit))


class AsyncDatasets:
    def __init__(self, client: AsyncStillhouse) -> None:
        self._client = client

    async def create(
        self,
        rows: RowSource,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Dataset:
        """Upload rows, or a .jsonl, .csv, .parquet or .json file."""
        return await self._client.send(_create(rows, name, metadata, idempotency_key))

    async def retrieve(self, dataset_id: str) -> Dataset:
        return await self._client.send(_request.get(f"{PATH}/{dataset_id}", Dataset))

    async def list(self, **params: Unpack[ListParams]) -> AsyncPage[Dataset]:
        return AsyncPage(self._client, await self._client.send(_list(params)))

    async def delete(self, dataset_id: str) -> None:
        await self._client.send(_request.delete(f"{PATH}/{dataset_id}"))

    async def rows(self, dataset_id: str, *, start: int = 1, limit: int = 100) -> DatasetRows:
        """`limit` rows from row `start`, counted from 1."""
        return await self._client.send(_read_rows(dataset_id, start, limit))
