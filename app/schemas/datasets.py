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


class ValueRead(Reply):
    """One of few different values of a column."""

    value: Any
    rows: int = Field(description="How many rows have it")
    row: int = Field(description="The first of them, counted from 1")


class KindRead(Reply):
    """What the values of a column are: their JSON types; of a CSV's cells, what their text looks like."""

    kind: str
    rows: int
    row: int = Field(description="The first such row, counted from 1")


class ColumnRead(Reply):
    name: str
    types: list[str]
    missing: int = Field(description="Rows that lack the column")
    kinds: list[KindRead] = Field(default_factory=list)
    values: list[ValueRead] | None = Field(default=None, description="The different values, where they are few and short")


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
