"""Datasets: named or unnamed sets of rows."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from app.schemas.common import Body, Metadata, Name, Reply


class DatasetCreate(Body):
    """The JSON form of an upload."""

    name: Name | None = None
    rows: list[dict[str, Any]] = Field(min_length=1)
    metadata: Metadata = Field(default_factory=dict)


class ColumnRead(Reply):
    name: str
    types: list[str]
    missing: int = Field(description="Rows that lack the column")


class DatasetRead(Reply):
    id: str
    object: Literal["dataset"] = "dataset"
    created_at: int
    name: str | None
    version: int | None = Field(description="Counts up with each upload under the same name; `name@v3` and `name@latest` find it")
    rows: int
    columns: list[ColumnRead]
    digest: str
    size_bytes: int
    metadata: dict[str, str]


class DatasetRow(Reply):
    row: int = Field(description="1-based")
    data: dict[str, Any]


class DatasetRows(Reply):
    object: Literal["list"] = "list"
    data: list[DatasetRow]
    has_more: bool
    next_row: int | None
