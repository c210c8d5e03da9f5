"""Metrics: what a job's `metric` may say, stored once a project by its digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from distill.catalog import audit, by_digest
from distill.catalog.models import Metric
from distill.db import Listing, Page, Session
from distill.errors import Invalid
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
        "name": name,
        "spec": compact(spec),
        "created_by": created_by,
        "metadata": dict(metadata or {}),
    }
    return by_digest.put(s, Metric, project_id, digest(spec), values)


def get(s: Session, project_id: str, metric_id: str) -> Metric:
    return by_digest.get(s, Metric, "metric", project_id, metric_id)


def spec_of(row: Metric) -> dict[str, Any]:
    """What a job takes in place of the id."""
    spec: dict[str, Any] = json.loads(row.spec)
    return spec


def list_metrics(s: Session, project_id: str, page: Page) -> Listing[Metric]:
    return by_digest.page_of(s, Metric, project_id, page)


def delete(s: Session, project_id: str, metric_id: str) -> None:
    """Hide a metric; jobs that took it hold what it says. Raises NotFound."""
    by_digest.hide(s, Metric, "metric", project_id, metric_id)
    audit.record(s, project_id, "metric.deleted", metric_id)
