"""/v1/metrics."""

from __future__ import annotations

from fastapi import Response

from app.auth import Reader, Writer
from app.deps import BODY_ERRORS, METADATA_QUERY, MetricId, SessionDep, TaggedPageDep, errors, router
from app.hosting import scores
from app.idempotency import Made, OnceDep
from app.references import metric_to_store
from app.schemas.common import Deleted, Page
from app.schemas.metrics import MetricCreate, MetricRead, MetricTried, MetricTry, TriedPair
from app.services import ServicesDep
from app.views.convert import page_of
from app.views.metrics import metric_read
from distill.catalog import bundles, metrics
from distill.db import unit_of_work
from stillhouse_programs.spec import MetricSpec

routes = router("metrics")


@routes.post("/metrics", status_code=201, response_model=MetricRead, summary="Store a metric", responses={**BODY_ERRORS, **errors(409)})
def create_metric(body: MetricCreate, caller: Writer, session: SessionDep, once: OnceDep, services: ServicesDep) -> Response:
    """The same spec again is the same metric. A compile job takes the id where it takes the spec, and is the same job as with the spec.

    A `reference` is imported once to see that it is a metric. Each job looks at the code as it then is.
    """

    def make(spec: MetricSpec) -> Made:
        row = metrics.ensure(session, caller.project_id, caller.key_id, spec, name=body.name, metadata=body.metadata)
        return Made(metric_read(row), f"/v1/metrics/{row.id}")

    return once.reply_after(lambda: metric_to_store(services, caller.project_id, body.spec), make)


@routes.get("/metrics", summary="List metrics", openapi_extra=METADATA_QUERY)
def list_metrics(caller: Reader, session: SessionDep, page: TaggedPageDep) -> Page[MetricRead]:
    """Newest first."""
    return page_of(metrics.list_metrics(session, caller.project_id, page), metric_read)


@routes.get("/metrics/{metric_id}", summary="Read a metric", responses=errors(404))
def get_metric(metric_id: MetricId, caller: Reader, session: SessionDep) -> MetricRead:
    """The spec with its defaults written out."""
    return metric_read(metrics.get(session, caller.project_id, metric_id))


@routes.delete("/metrics/{metric_id}", summary="Delete a metric", responses=errors(404))
def delete_metric(metric_id: MetricId, caller: Writer, session: SessionDep) -> Deleted:
    """Jobs that took it keep its spec."""
    metrics.delete(session, caller.project_id, metric_id)
    return Deleted(id=metric_id, object="metric")


@routes.post("/metrics/{metric_id}/try", summary="Ask a metric about answers", responses={**BODY_ERRORS, **errors(404)})
def try_metric(metric_id: MetricId, body: MetricTry, caller: Writer, services: ServicesDep) -> MetricTried:
    """What it says of at most 20 pairs. No LM is called and nothing is stored.

    No program runs, so the metric gets outputs as they are in JSON, and an empty trace. What is no output stands as an input of the row."""
    with unit_of_work("api") as session:
        spec = metrics.spec_of(metrics.get(session, caller.project_id, metric_id))
        python = bundles.python_of(session, caller.project_id, {"metric": spec.get("bundle", "")})
    found = scores(services, caller.project_id, spec, body.examples, body.predictions, python)
    return MetricTried(metric=metric_id, data=[TriedPair.model_validate(score) for score in found])
