"""A dataset as its readers see it."""

from __future__ import annotations

from app.schemas.datasets import ColumnRead, DatasetRead
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
        columns=[
            ColumnRead(name=column["name"], types=list(column["types"]), missing=row.row_count - column["present"]) for column in row.fields
        ],
        digest=row.digest,
        size_bytes=row.size_bytes,
        metadata=row.user_metadata,
    )
