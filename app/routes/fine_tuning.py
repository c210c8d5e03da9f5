"""/v1/fine_tuning/jobs: the children of compile jobs in OpenAI's shape, read only."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from app.auth import Reader, Writer
from app.deps import JobId, PageDep, SessionDep, errors, router
from app.errors import ApiError
from app.schemas.common import Page
from app.schemas.fine_tuning import FineTuneEventRead, FineTuneJobRead
from app.views.convert import page_of
from app.views.fine_tuning import fine_tune_event, fine_tune_read
from distill.catalog.keys import Caller
from distill.db import Session
from distill.jobs import events, repository

routes = router("OpenAI-shaped")


@routes.get("/fine_tuning/jobs", summary="List fine-tune jobs")
def list_fine_tuning_jobs(caller: Reader, session: SessionDep, page: PageDep) -> Page[FineTuneJobRead]:
    """Newest first."""
    return page_of(repository.list_fine_tune_jobs(session, caller.project_id, page), fine_tune_read)


@routes.get("/fine_tuning/jobs/{job_id}", summary="Read a fine-tune job", responses=errors(404))
def get_fine_tuning_job(job_id: JobId, caller: Reader, session: SessionDep) -> FineTuneJobRead:
    """`metadata.compile_job_id` names the compile job that it belongs to."""
    return fine_tune_read(repository.fine_tune_job(session, caller.project_id, job_id))


@routes.post("/fine_tuning/jobs/{job_id}/cancel", summary="Cancel a fine-tune job", responses=errors(404, 409))
def cancel_fine_tuning_job(job_id: JobId, caller: Writer, session: SessionDep) -> FineTuneJobRead:
    """Always a conflict for a compile job's child: cancel its parent."""
    raise _of_parent(session, caller, job_id, "cancel")


@routes.post("/fine_tuning/jobs/{job_id}/pause", summary="Pause a fine-tune job", responses=errors(404, 409))
def pause_fine_tuning_job(job_id: JobId, caller: Writer, session: SessionDep) -> FineTuneJobRead:
    """Always a conflict for a compile job's child: pause its parent."""
    raise _of_parent(session, caller, job_id, "pause")


@routes.post("/fine_tuning/jobs/{job_id}/resume", summary="Resume a fine-tune job", responses=errors(404, 409))
def resume_fine_tuning_job(job_id: JobId, caller: Writer, session: SessionDep) -> FineTuneJobRead:
    """Always a conflict for a compile job's child: resume its parent."""
    raise _of_parent(session, caller, job_id, "resume")


def _of_parent(session: Session, caller: Caller, job_id: str, verb: str) -> ApiError:
    row = repository.fine_tune_job(session, caller.project_id, job_id)
    message = f"It belongs to {row.job_id}: {verb} that with POST /v1/compile_jobs/{row.job_id}/{verb}."
    return ApiError(409, "child_of_compile_job", message)


@routes.get("/fine_tuning/jobs/{job_id}/events", summary="What happened to a fine-tune job", responses=errors(404))
def list_fine_tuning_events(
    job_id: JobId,
    caller: Reader,
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(pattern=r"^ftevent-[a-z0-9]+-\d{1,18}$")] = None,
) -> Page[FineTuneEventRead]:
    """The events of its compile job that concern training, in order."""
    row = repository.fine_tune_job(session, caller.project_id, job_id)
    start = int(after.rsplit("-", 1)[1]) if after else 0
    found = events.concerning(session, row.job_id, row.id, _TRAINING, start, limit + 1)
    data = [fine_tune_event(event) for event in found[:limit]]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return Page(data=data, first_id=first, last_id=last, has_more=len(found) > limit)


_TRAINING = frozenset({"status", "done", "train.curve", "train.progress", "checkpoint", "log", "warning"})
