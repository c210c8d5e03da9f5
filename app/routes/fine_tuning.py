"""/v1/fine_tuning/jobs in OpenAI's shape: jobs that its clients ask for, and the children of compile jobs, which are read only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Query, Response

from app.auth import Reader, Writer
from app.deps import BODY_ERRORS, METADATA_QUERY, FineTuningJobId, SessionDep, TaggedPageDep, errors, router
from app.errors import ApiError
from app.idempotency import Made, OnceDep
from app.schemas.common import Page
from app.schemas.fine_tuning import FineTuneCheckpointRead, FineTuneEventRead, FineTuneJobRead
from app.schemas.fine_tuning_create import FineTuneJobCreate
from app.services import ServicesDep
from app.views.convert import page_of
from app.views.fine_tuning import checkpoints_of, fine_tune_event, fine_tune_read
from distill.catalog.keys import Caller
from distill.db import Session
from distill.jobs import checkpoints, events, facts, fine_tuning, pausing, repository, service
from distill.jobs.models import FineTuneJob, Job
from distill.jobs.status import JobKind
from distill.jobs.trainer_queue import Active

routes = router("OpenAI-shaped")


@routes.post(
    "/fine_tuning/jobs",
    response_model=FineTuneJobRead,
    summary="Train a model on a file",
    responses={**BODY_ERRORS, **errors(404, 409)},
)
def create_fine_tuning_job(body: FineTuneJobCreate, caller: Writer, session: SessionDep, services: ServicesDep, once: OnceDep) -> Response:
    """The file is checked line by line first; what is wrong with it stands in the job's `error`, with line numbers from 1."""

    def make() -> Made:
        row = fine_tuning.submit(session, services.store, caller.project_id, caller, _asked(body))
        return Made(_read(session, row), f"/v1/fine_tuning/jobs/{row.id}", 200)

    return once.reply(make)


def _asked(body: FineTuneJobCreate) -> fine_tuning.FineTuneSpec:
    return fine_tuning.FineTuneSpec(
        model=body.model,
        training_file=body.training_file,
        validation_file=body.validation_file,
        train_options=body.train_options,
        seed=body.seed or 0,
        suffix=body.suffix,
        metadata=body.metadata or {},
    )


@routes.get("/fine_tuning/jobs", summary="List fine-tune jobs", openapi_extra=METADATA_QUERY)
def list_fine_tuning_jobs(caller: Reader, session: SessionDep, page: TaggedPageDep) -> Page[FineTuneJobRead]:
    """Newest first; the children of compile jobs too."""
    found = repository.list_fine_tune_jobs(session, caller.project_id, page)
    own, active = fine_tuning.own_jobs(session, found.data), Active.read(session, {row.job_id for row in found.data})
    return page_of(found, lambda row: fine_tune_read(row, active, own.get(row.id)))


@routes.get("/fine_tuning/jobs/{job_id}", summary="Read a fine-tune job", responses=errors(404))
def get_fine_tuning_job(job_id: FineTuningJobId, caller: Reader, session: SessionDep) -> FineTuneJobRead:
    """In a compile job's child `metadata.compile_job_id` names its parent."""
    return _read(session, repository.fine_tune_job(session, caller.project_id, job_id))


def _read(session: Session, row: FineTuneJob) -> FineTuneJobRead:
    return fine_tune_read(row, Active.read(session, [row.job_id]), fine_tuning.own_jobs(session, [row]).get(row.id))


@routes.post("/fine_tuning/jobs/{job_id}/cancel", summary="Cancel a fine-tune job", responses=errors(404, 409))
def cancel_fine_tuning_job(job_id: FineTuningJobId, caller: Writer, session: SessionDep) -> FineTuneJobRead:
    """A conflict for a job that is over, and for a compile job's child: cancel its parent."""
    return _asked_of(session, caller, job_id, "cancel", service.cancel)


@routes.post("/fine_tuning/jobs/{job_id}/pause", summary="Pause a fine-tune job", responses=errors(404, 409))
def pause_fine_tuning_job(job_id: FineTuningJobId, caller: Writer, session: SessionDep) -> FineTuneJobRead:
    """It keeps its checkpoint, and is shown as running. A conflict for a compile job's child: pause its parent."""
    return _asked_of(session, caller, job_id, "pause", pausing.pause)


@routes.post("/fine_tuning/jobs/{job_id}/resume", summary="Resume a fine-tune job", responses=errors(404, 409))
def resume_fine_tuning_job(job_id: FineTuningJobId, caller: Writer, session: SessionDep) -> FineTuneJobRead:
    """It goes on from its checkpoint. A conflict for a compile job's child: resume its parent."""
    return _asked_of(session, caller, job_id, "resume", pausing.resume)


def _asked_of(
    session: Session, caller: Caller, job_id: str, verb: str, ask: Callable[[Session, str, str, JobKind], Job]
) -> FineTuneJobRead:
    row = repository.fine_tune_job(session, caller.project_id, job_id)
    if row.job_id != row.id:
        message = f"It belongs to {row.job_id}: {verb} that with POST /v1/compile_jobs/{row.job_id}/{verb}."
        raise ApiError(409, "child_of_compile_job", message)
    ask(session, caller.project_id, job_id, JobKind.FINE_TUNE)
    return _read(session, repository.fine_tune_job(session, caller.project_id, job_id))


@routes.get("/fine_tuning/jobs/{job_id}/events", summary="What happened to a fine-tune job", responses=errors(404))
def list_fine_tuning_events(
    job_id: FineTuningJobId,
    caller: Reader,
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(pattern=r"^ftevent-[a-z0-9]+-\d{1,18}$")] = None,
) -> Page[FineTuneEventRead]:
    """Newest first, as OpenAI lists them; of a compile job's child those of its parent that concern training."""
    row = repository.fine_tune_job(session, caller.project_id, job_id)
    before = int(after.rsplit("-", 1)[1]) if after else None
    found = events.concerning(session, row.job_id, row.id, _TRAINING, before, limit + 1)
    data = [fine_tune_event(event) for event in found[:limit]]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return Page(data=data, first_id=first, last_id=last, has_more=len(found) > limit)


_TRAINING = frozenset({"status", "done", "train.curve", "train.progress", "checkpoint", "log", "warning"})


@routes.get("/fine_tuning/jobs/{job_id}/checkpoints", summary="The checkpoints of a fine-tune job", responses=errors(404))
def list_fine_tuning_checkpoints(job_id: FineTuningJobId, caller: Reader, session: SessionDep) -> Page[FineTuneCheckpointRead]:
    """The newest first, with step and losses. While it trains those that it would go on from: nobody serves them, so
    `fine_tuned_model_checkpoint` is empty. Once it is trained they are gone, and the model itself is listed, with its step."""
    row = repository.fine_tune_job(session, caller.project_id, job_id)
    told = facts.curve_points(session, row.job_id).get(row.id, ())
    data = checkpoints_of(row, _read(session, row).fine_tuned_model, checkpoints.newest_first(session, row.id), told)
    return Page(data=data, first_id=data[0].id if data else None, last_id=data[-1].id if data else None)
