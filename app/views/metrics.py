"""A metric as its readers see it."""

from __future__ import annotations

from app.schemas.metrics import MetricRead
from app.views.convert import seconds
from distill.catalog import metrics
from distill.catalog.models import Metric


def metric_read(row: Metric) -> MetricRead:
    return MetricRead(
        id=row.id,
        created_at=seconds(row.created_at),
        created_by=row.created_by,
        name=row.name,
        digest=row.digest,
        spec=metrics.spec_of(row),
        metadata=row.user_metadata,
    )
