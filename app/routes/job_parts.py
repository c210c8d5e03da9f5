"""What a compile job made on its way: events, traces, rejections, training files, curves, cost, children, artifact."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app import lines
from app.auth import JobViewer, Reader
from app.deps import JobId, PageDep, SessionDep, errors, router
from app.errors import ApiError
from app.following import Follower, event_stream, position
from app.operating import project_now, project_of_job
from app.schemas.common import Page
from app.schemas.compile_jobs import CostRead, CurveRead, EventRead, RejectionRead, TraceRead
from app.schemas.fine_tuning import FineTuneJobRead, LogRead
from app.schemas.served import ArtifactRead
from app.services import ServicesDep
from app.views.compile_jobs import event_read
from app.views.convert import page_of
from app.views.costs import cost_read
from app.views.facts import curve_read, rejection_read, trace_read
from app.views.fine_tuning import fine_tune_read, log_read
from app.views.served import artifact_read
from distill.catalog import artifacts, usage
from distill.catalog.keys import Caller
from distill.db import unit_of_work
from distill.jobs import events, facts, repository
from distill.jobs.trainer_queue import Active

routes = router("compile jobs")

LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", pattern=r"^\d{1,18}$", description="Resume a stream after it")]


@routes.get(
    "/compile_jobs/{job_id}/events",
    summary="What happened to a job",
    response_model=Page[EventRead],
    responses={
        **errors(404),
        200: {"description": "A page; or, with `Accept: text/event-stream`, a stream", "content": {"text/event-stream": {}}},
        204: {"description": "A stream was asked for, and the job is done with nothing after Last-Event-ID"},
    },
)
async def list_events(
    request: Request,
    job_id: JobId,
    caller: JobViewer,
    services: ServicesDep,
    after: Annotated[int, Query(ge=0, le=2**62, description="Only events after this number")] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
    last_event_id: LastEventId = None,
) -> Response | Page[EventRead]:
    """In order of their numbers. A stream sends each event as it happens and ends after `done`; Last-Event-ID resumes it. Beyond the
    streams and reads with `wait` that a project may hold open the answer is 429 `too_many_streams`."""
    if "text/event-stream" not in request.headers.get("accept", ""):
        return await run_in_threadpool(_page, caller, job_id, after, limit)
    start = int(last_event_id) if last_event_id is not None else after
    project_id = await run_in_threadpool(project_now, caller, job_id)
    last, final = await run_in_threadpool(position, project_id, job_id)
    if final and start >= last:
        return Response(status_code=204)
    return event_stream(services, Follower(job_id, project_id, caller), start)


def _page(caller: Caller, job_id: str, after: int, limit: int) -> Page[EventRead]:
    with unit_of_work("api") as session:
        job = repository.get(session, project_of_job(session, caller, job_id), job_id)
        whole = job.project_id == caller.project_id
        found = [event_read(event, whole) for event in events.after(session, job_id, after, limit + 1)]
    data = found[:limit]
    first, last = (str(data[0].id), str(data[-1].id)) if data else (None, None)
    return Page(data=data, first_id=first, last_id=last, has_more=len(found) > limit)


@routes.get(
    "/compile_jobs/{job_id}/traces",
    summary="Rollouts of a job with their scores",
    response_model=Page[TraceRead],
    responses={**errors(404), **lines.RESPONSE},
)
def list_traces(
    job_id: JobId,
    caller: Reader,
    session: SessionDep,
    page: PageDep,
    role: Annotated[str | None, Query(description="`teacher:0`, `baseline`, `teacher`, `compiled`, `incumbent`, …")] = None,
    passed: Annotated[bool | None, Query(description="Only those whose score passes, or does not")] = None,
    predictor: Annotated[str | None, Query(description="Only those that called this predictor")] = None,
    format: lines.Format = None,
    accept: lines.Accept = None,
) -> Response | Page[TraceRead]:
    """Also those that were reused from the project's earlier jobs."""
    job = repository.get(session, caller.project_id, job_id)
    wanted = facts.RolloutFilter(role, passed, predictor)
    if lines.wants_lines(format, accept):
        place = facts.place_of(job)
        return lines.stream(f"{job_id}-traces", lambda s, part: facts.list_rollouts(s, place, part, wanted), trace_read)
    return page_of(facts.list_rollouts(session, facts.place_of(job), page, wanted), trace_read, lambda trace: trace.cursor)


@routes.get(
    "/compile_jobs/{job_id}/rejections",
    summary="What was not trained on, and why",
    response_model=Page[RejectionRead],
    responses={**errors(404), **lines.RESPONSE},
)
def list_rejections(
    job_id: JobId,
    caller: Reader,
    session: SessionDep,
    page: PageDep,
    reason: Annotated[str | None, Query(description="Only with this reason")] = None,
    predictor: Annotated[str | None, Query(description="Only calls of this predictor")] = None,
    format: lines.Format = None,
    accept: lines.Accept = None,
) -> Response | Page[RejectionRead]:
    """Rollouts of the teacher that failed or did not pass, and calls that could not be rendered as a training record."""
    place = facts.place_of(repository.get(session, caller.project_id, job_id))
    wanted = facts.RejectionFilter(reason, predictor)
    if lines.wants_lines(format, accept):
        return lines.stream(f"{job_id}-rejections", lambda s, part: facts.list_rejections(s, place, part, wanted), rejection_read)
    found = facts.list_rejections(session, place, page, wanted)
    return page_of(found, rejection_read, lambda rejection: rejection.cursor)


@routes.get("/compile_jobs/{job_id}/cost", summary="What a job has cost so far", responses=errors(404))
def get_cost(job_id: JobId, caller: JobViewer, session: SessionDep) -> CostRead:
    """Parts that nobody priced are named in `unknown`."""
    job = repository.get(session, project_of_job(session, caller, job_id), job_id)
    return cost_read(usage.of_jobs(session, [job.id]).get(job.id, []), repository.fine_tune_jobs(session, job.id))


@routes.get("/compile_jobs/{job_id}/fine_tuning_jobs", summary="Fine-tune jobs of a job", responses=errors(404))
def list_child_jobs(job_id: JobId, caller: JobViewer, session: SessionDep) -> Page[FineTuneJobRead]:
    """One for each LoRA adapter, in OpenAI's shape."""
    job = repository.get(session, project_of_job(session, caller, job_id), job_id)
    active = Active.read(session, [job.id])
    data = [fine_tune_read(row, active) for row in repository.fine_tune_jobs(session, job.id)]
    return Page(data=data, first_id=data[0].id if data else None, last_id=data[-1].id if data else None)


@routes.get("/compile_jobs/{job_id}/logs", summary="Logs of a job's trainings", responses=errors(404))
def list_logs(
    job_id: JobId,
    caller: JobViewer,
    session: SessionDep,
    services: ServicesDep,
    fine_tuning_job: Annotated[str | None, Query(max_length=256, description="Only that of this fine-tune job")] = None,
    tail: Annotated[int | None, Query(ge=1, le=100_000, description="Only the last so many lines of each")] = None,
) -> Page[LogRead]:
    """One for each fine-tune job that has begun to train, by LM and predictor."""
    job = repository.get(session, project_of_job(session, caller, job_id), job_id)
    rows = repository.fine_tune_jobs(session, job.id)
    if fine_tuning_job is not None:
        rows = [row for row in rows if row.id == fine_tuning_job]
        if not rows:
            raise ApiError(404, "not_found", "The job has no such fine-tune job.", param="fine_tuning_job")
    begun = [row for row in rows if fine_tuning_job is not None or row.log is not None or row.log_tail is not None]
    return Page(data=[log_read(services.store, row, tail) for row in begun])


@routes.get("/compile_jobs/{job_id}/curves", summary="Training curves of a job", responses=errors(404))
def list_curves(job_id: JobId, caller: JobViewer, session: SessionDep, services: ServicesDep) -> Page[CurveRead]:
    """One for each fine-tune job that has begun to train."""
    job = repository.get(session, project_of_job(session, caller, job_id), job_id)
    told = facts.curve_points(session, job.id)
    begun = [row for row in repository.fine_tune_jobs(session, job.id) if row.curve or row.id in told]
    return Page(data=[curve_read(services.store, row, told.get(row.id, ())) for row in begun])


@routes.get("/compile_jobs/{job_id}/artifact", summary="The result of a job", responses=errors(404))
def get_job_artifact(job_id: JobId, caller: Reader, session: SessionDep) -> ArtifactRead:
    """404 until the job has succeeded."""
    job = repository.get(session, caller.project_id, job_id)
    artifact = artifacts.of_job(session, job.id)
    if artifact is None:
        raise ApiError(404, "no_artifact", f"The job is {job.status} and has no artifact.", param="id")
    return artifact_read(artifact)
