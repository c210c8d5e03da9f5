"""/v1/compile_jobs/{id}/evaluations."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query

from app.auth import Reader
from app.deps import JobId, PageDep, SessionDep, errors, router
from app.schemas.common import Page
from app.schemas.evaluations import Change, EvaluationsRead, PairRead
from app.services import ServicesDep
from app.views.convert import page_of
from app.views.evaluations import evaluations_read, pair_read
from distill.catalog import datasets
from distill.jobs import pairs, repository
from distill.jobs.pairs import Pair

routes = router("compile jobs")


@routes.get("/compile_jobs/{job_id}/evaluations", summary="Scores on held-out examples, by role", responses=errors(404))
def list_evaluations(job_id: JobId, caller: Reader, session: SessionDep) -> EvaluationsRead:
    """Empty until the evaluation is done; `note` says why where none will come. The examples one by one are in `…/evaluations/pairs`."""
    return evaluations_read(repository.get(session, caller.project_id, job_id))


@routes.get("/compile_jobs/{job_id}/evaluations/pairs", summary="Held-out examples under two roles", responses=errors(404))
def list_evaluation_pairs(
    job_id: JobId,
    caller: Reader,
    session: SessionDep,
    services: ServicesDep,
    page: PageDep,
    change: Annotated[Change | None, Query(description="Only regressions, only fixes, …")] = None,
    against: Annotated[str | None, Query(description="A role; without it the one that the verdict is about")] = None,
) -> Page[PairRead]:
    """The compiled program's answer to each row beside another role's, by row; with `order=asc` from the first row on."""
    job = repository.get(session, caller.project_id, job_id)
    other, held_out = against or _beaten(job.evaluation), job.valset_id or job.trainset_id
    if other is None or held_out is None:
        return Page(data=[])
    found = pairs.list_pairs(session, job, other, page, change)
    dataset = datasets.by_id(session, held_out)
    wanted = [] if dataset.deleted_at is not None else [pair.example for pair in found.data]
    rows = datasets.picked(services.store, dataset, wanted) if wanted else {}

    def read(pair: Pair) -> PairRead:
        return pair_read(pair, dataset.id, rows.get(pair.example, {}))

    return page_of(found, read, lambda pair: pair.cursor)


def _beaten(evaluation: dict[str, Any] | None) -> str | None:
    """The role that the compiled program was compared with."""
    return ((evaluation or {}).get("delta") or {}).get("against")
