"""A dataset as its readers see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.schemas.datasets import ColumnRead, DatasetRead, KindRead, ValueRead
from app.views.convert import seconds
from distill.catalog.models import Dataset


def dataset_read(row: Dataset) -> DatasetRead:
    """The dataset with a summary of its columns, made once at upload."""
    return DatasetRead(
        id=row.id,
        created_at=seconds(row.created_at),
        name=row.name,
        version=row.version,
        rows=row.row_count,
        columns=[_column(column, row.row_count) for column in row.fields],
        digest=row.digest,
        size_bytes=row.size_bytes,
        metadata=row.user_metadata,
    )


def _column(column: Mapping[str, Any], rows: int) -> ColumnRead:
    values = column.get("values")
    return ColumnRead(
        name=column["name"],
        types=list(column["types"]),
        missing=rows - column["present"],
        kinds=[KindRead(kind=each["kind"], rows=each["rows"], row=each["row"]) for each in column.get("kinds", [])],
        values=None if values is None else [ValueRead(**each) for each in values],
    )
