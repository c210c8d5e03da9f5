"""Metrics: what a job's `metric` may say, stored once a project by its digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from distill.catalog import audit
from distill.catalog.models import Metric
from distill.db import Listing, Page, Session, paginate
from distill.errors import Invalid, NotFound
from distill.ids import new_id
from distill.spec import compact, digest
from stillhouse_programs.spec import MetricSpec, SpecError, parse_metric


def read_metric(raw: Any, param: str = "metric") -> MetricSpec:
    """A metric from parsed JSON. Raises Invalid, whose `param` is the JSON path below `param`."""
    try:
        return parse_metric(raw)
    except SpecError as error:
        message, place = (f"{param}{text.removeprefix('metric')}" for text in (error.message, error.param))
        raise Invalid(message, code="invalid_value", param=place) from None


def ensure(
    s: Session,
    project_id: str,
    created_by: str | None,
    metric: MetricSpec,
    *,
    name: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Metric:
    """The project's metric that says this, stored now if it is new. A deleted one comes back under its old id."""
    # Of code every job writes the source down as it then is: what is stored here names it.
    spec = metric.model_dump(mode="json", exclude={"source"})
    values = {
        "id": new_id("metric"),
        "project_id": project_id,
        "digest": digest(spec),
        "name": name,
        "spec": compact(spec),
        "created_by": created_by,
        "metadata": dict(metadata or {}),
    }
    table = Metric.__table__
    statement = insert(table).values(values)  # type: ignore[arg-type]
    s.execute(statement.on_conflict_do_update(index_elements=["project_id", "digest"], set_={"deleted_at": None}))
    return s.execute(select(Metric).where(Metric.project_id == project_id, Metric.digest == values["digest"])).scalar_one()


def get(s: Session, project_id: str, metric_id: str) -> Metric:
    row = s.scalar(select(Metric).where(Metric.id == metric_id, Metric.project_id == project_id, Metric.deleted_at.is_(None)))
    if row is None:
        raise NotFound(f"no metric {metric_id}", code="metric_not_found", param="metric")
    return row


def spec_of(row: Metric) -> dict[str, Any]:
    """What a job takes in place of the id."""
    spec: dict[str, Any] = json.loads(row.spec)
    return spec


def list_metrics(s: Session, project_id: str, page: Page) -> Listing[Metric]:
    return paginate(s, select(Metric).where(Metric.project_id == project_id, Metric.deleted_at.is_(None)), Metric.id, page)


def delete(s: Session, project_id: str, metric_id: str) -> None:
    """Hide a metric; jobs that took it hold what it says. Raises NotFound."""
    get(s, project_id, metric_id)
    s.execute(update(Metric).where(Metric.id == metric_id).values(deleted_at=func.clock_timestamp()))
    audit.record(s, project_id, "metric.deleted", metric_id)
