"""/v1/compile_jobs: create, list, read, change, start, pause, resume, cancel, retry, refilter."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Depends, Header, Query, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from app.auth import JobActor, JobViewer, Writer
from app.compose import Composer, naming_no_path
from app.deps import BODY_ERRORS, METADATA_QUERY, Cascade, DryRun, JobId, SessionDep, TaggedPageDep, errors, router
from app.following import wait_for_change
from app.hosting import answered
from app.idempotency import Made, OnceDep
from app.operating import ProjectQuery, chosen_project_id, project_now, project_of_job, projects_seen
from app.references import Code, read_code
from app.rehearsal import rehearse
from app.schemas.common import Deletion, Page
from app.schemas.compile_jobs import CancelledJob, CancelledJobs, CancelMany, DryRunRead, JobCreate, JobRead, JobUpdate, RefilterIn, RetryIn
from app.schemas.estimates import EstimateRead
from app.services import Services, ServicesDep
from app.views.compile_jobs import dry_run_read, job_read
from app.views.convert import page_of
from app.views.deletions import deletion_read, outlook_read
from app.views.estimates import estimate_read
from distill import estimate
from distill.catalog.keys import Caller
from distill.db import Session, unit_of_work
from distill.jobs import cancelling, editing, erasing, pausing, refiltering, repository, retrying, service
from distill.jobs.models import Job
from distill.jobs.overview import overviews
from distill.jobs.repository import JobFilter
from distill.jobs.status import JobKind, JobStatus
from distill.storage.overlay import overlay

routes = router("compile jobs")

#: In one request, which is one transaction.
MOST_CANCELLED = 500
ShownStep = Literal["validate", "bootstrap", "prepare", "train", "evaluate", "package"]


def read_job(session: Session, caller: Caller, job: Job) -> JobRead:
    """The job with its steps, fine-tune jobs, place in the queue and artifact."""
    return job_read(job, overviews(session, [job])[job.id], projects_seen(session, caller))


@routes.post(
    "/compile_jobs",
    status_code=201,
    response_model=JobRead,
    summary="Create a compile job",
    responses={
        **BODY_ERRORS,
        **errors(409),
        200: {
            "model": JobRead | DryRunRead,
            "description": "With `if_changed` the job that is there already; with `dry_run` the request would be taken",
        },
    },
)
def create_compile_job(
    body: JobCreate,
    caller: Writer,
    session: SessionDep,
    services: ServicesDep,
    once: OnceDep,
    dry_run: Annotated[bool, Query(description="Check everything, store nothing; an Idempotency-Key has no effect then")] = False,
    if_changed: Annotated[
        bool, Query(description="Make no job where one of equal `spec_digest` has all it made or is under way: answer 200 with that one")
    ] = False,
) -> Response:
    """The smallest body has `program`, `trainset` and `metric`, where the server has default connections.

    A fault is 422 and nothing is stored: `param` names the place, `details` the rows (counted from 1)."""
    if dry_run:
        return JSONResponse(_dry_run(body, caller, services).model_dump(mode="json"))

    def make(code: Code) -> Made:
        with naming_no_path():
            spec = Composer(session, services, caller, code).spec(body)
            same = service.unchanged(session, caller.project_id, spec) if if_changed else None
            job = same or service.submit(session, caller.project_id, caller, spec, priority=body.priority)
        return Made(read_job(session, caller, job), f"/v1/compile_jobs/{job.id}", status=200 if same else 201)

    return once.reply_after(lambda: read_code(services, caller.project_id, body), make)


def _dry_run(body: JobCreate, caller: Caller, services: Services) -> DryRunRead:
    code = read_code(services, caller.project_id, body)
    with overlay(services.store) as store:
        job = rehearse(services, store, caller, body, code, lambda session, job: read_job(session, caller, job))
    return dry_run_read(job, body)


@routes.post("/compile_jobs/estimate", summary="What a compile job would ask and cost", responses=BODY_ERRORS)
def estimate_compile_job(body: JobCreate, caller: Writer, services: ServicesDep) -> EstimateRead:
    """Takes the body of `create`, and renders the prompts as the job would; nothing is stored, no LM is called. What the project has run
    before costs nothing again; the rest goes by what its rollouts took, and is null where there were none."""
    code = read_code(services, caller.project_id, body)
    host = services.program_host
    with overlay(services.store) as store:
        draft = rehearse(services, store, caller, body, code, estimate.draft)
        python = draft.job.python
        found = estimate.estimate(store, draft, lambda asked: answered(lambda: host.validate(caller.project_id, asked, python=python)))
    return estimate_read(found)


def _filter(
    caller: JobViewer,
    status: Annotated[JobStatus | None, Query(description="Only jobs with this status")] = None,
    step: Annotated[ShownStep | None, Query(description="Only jobs at this step")] = None,
    program: Annotated[str | None, Query(description="A program's id, or a job's `program_name`")] = None,
    created_by: Annotated[str | None, Query(max_length=256, description="`me`, or a key's id or label")] = None,
) -> JobFilter:
    return JobFilter(
        status=status,
        step=step,
        created_by=caller.key_id if created_by == "me" else created_by,
        program=program,
    )


@routes.get("/compile_jobs", summary="List compile jobs", openapi_extra=METADATA_QUERY)
def list_compile_jobs(
    caller: JobViewer,
    session: SessionDep,
    page: TaggedPageDep,
    narrow: Annotated[JobFilter, Depends(_filter)],
    project: ProjectQuery = None,
) -> Page[JobRead]:
    """Newest first."""
    found = repository.list_jobs(session, chosen_project_id(session, caller, project), page, narrow)
    parts, seen = overviews(session, found.data), projects_seen(session, caller)
    return page_of(found, lambda job: job_read(job, parts[job.id], seen))


@routes.get("/compile_jobs/{job_id}", summary="Read a compile job", responses=errors(404))
async def get_compile_job(
    job_id: JobId,
    caller: JobViewer,
    services: ServicesDep,
    response: Response,
    wait: Annotated[int, Query(ge=0, le=60, description="Seconds to wait for a change before answering")] = 0,
) -> JobRead:
    """With `wait=30` it answers as soon as something happens to the job, at once when it is final. Such a read counts as an event stream
    while it waits: beyond those that a project may hold open the answer is 429 `too_many_streams`."""
    if wait:
        with services.streams.counted(caller.project_id):
            project_id = await run_in_threadpool(project_now, caller, job_id)
            await wait_for_change(services, project_id, job_id, wait)
    found = await run_in_threadpool(_read_now, caller, job_id)
    response.headers["etag"] = found.etag
    return found


def _read_now(caller: Caller, job_id: str) -> JobRead:
    with unit_of_work("api") as session:
        return read_job(session, caller, repository.get(session, project_of_job(session, caller, job_id), job_id))


@routes.patch(
    "/compile_jobs/{job_id}",
    summary="Change a job's budget, name, priority or metadata",
    responses={**BODY_ERRORS, **errors(404, 409, 412)},
)
def update_compile_job(
    job_id: JobId,
    body: JobUpdate,
    caller: JobActor,
    session: SessionDep,
    response: Response,
    if_match: Annotated[str | None, Header(max_length=1000, description="The job's `etag` as it was read")] = None,
) -> JobRead:
    """Fields that are left out stay; `metadata` is replaced as a whole, of `budget` what is given (null takes a limit away). A job that its
    budget has paused goes on when it is resumed."""
    limits = body.budget.model_dump(exclude_unset=True) if body.budget is not None else None
    changes = editing.Changes(body.name, body.priority, body.metadata, limits)
    job = editing.edit(session, project_of_job(session, caller, job_id), job_id, changes, if_match)
    found = read_job(session, caller, job)
    response.headers["etag"] = found.etag
    return found


@routes.post("/compile_jobs/cancel", summary="Cancel many jobs", responses={**BODY_ERRORS, **errors(409)})
def cancel_compile_jobs(body: CancelMany, caller: JobActor, session: SessionDep) -> CancelledJobs:
    """Asks all open jobs that the filter names to stop, the oldest first and at most 500; while `has_more` is true, ask again."""
    narrow = JobFilter(status=body.status, program=body.program, created_by=caller.key_id if body.created_by == "me" else body.created_by)
    project_id = chosen_project_id(session, caller, body.project)
    found, has_more = cancelling.cancel_all(session, project_id, narrow, [JobKind.COMPILE], MOST_CANCELLED)
    return CancelledJobs(data=[CancelledJob(id=job.id, status=job.status) for job in found], has_more=has_more)


@routes.post("/compile_jobs/{job_id}/start", summary="Start a created job", responses=errors(404, 409))
def start_compile_job(job_id: JobId, caller: JobActor, session: SessionDep) -> JobRead:
    """For a job that was created with `auto_start: false`; any other is a conflict."""
    return read_job(session, caller, service.start(session, project_of_job(session, caller, job_id), job_id))


@routes.post(
    "/compile_jobs/{job_id}/retry",
    summary="Retry a failed job",
    response_model=JobRead,
    responses={**BODY_ERRORS, **errors(404, 409)},
)
def retry_compile_job(job_id: JobId, caller: JobActor, session: SessionDep, once: OnceDep, body: RetryIn | None = None) -> Response:
    """The job goes on where it failed, with its id and one `round` more; what succeeded stays, what was paid for is not paid again."""

    def make() -> Made:
        job = retrying.retry(session, project_of_job(session, caller, job_id), job_id, body.fine_tuning_job if body else None)
        return Made(read_job(session, caller, job), f"/v1/compile_jobs/{job.id}", status=200)

    return once.reply(make)


@routes.post(
    "/compile_jobs/{job_id}/refilter",
    status_code=201,
    response_model=JobRead,
    summary="Make another job from a job's traces",
    responses={**BODY_ERRORS, **errors(404, 409)},
)
def refilter_compile_job(job_id: JobId, body: RefilterIn, caller: Writer, session: SessionDep, once: OnceDep) -> Response:
    """Another bar, another prompt adapter, another student: no teacher is called, and a key whose training is the same is not trained."""

    def make() -> Made:
        repository.get(session, caller.project_id, job_id)
        with naming_no_path():
            job = refiltering.refilter(session, caller.project_id, caller, job_id, body.model_dump(mode="json", exclude_unset=True))
        return Made(read_job(session, caller, job), f"/v1/compile_jobs/{job.id}")

    return once.reply(make)


@routes.post("/compile_jobs/{job_id}/pause", summary="Pause a job", responses=errors(404, 409))
def pause_compile_job(job_id: JobId, caller: JobActor, session: SessionDep) -> JobRead:
    """A request: the job reports `paused` when its running work has stopped. Rollouts under way end, a training writes a checkpoint.
    Asking again is no error."""
    return read_job(session, caller, pausing.pause(session, project_of_job(session, caller, job_id), job_id))


@routes.post("/compile_jobs/{job_id}/resume", summary="Resume a paused job", responses=errors(404, 409))
def resume_compile_job(job_id: JobId, caller: JobActor, session: SessionDep) -> JobRead:
    """The job goes on where it stood. A pause that has not come yet is taken back; a job that is not paused stays as it is. One that its
    budget would stop again at once is a conflict, which says what to raise."""
    return read_job(session, caller, pausing.resume(session, project_of_job(session, caller, job_id), job_id))


@routes.post("/compile_jobs/{job_id}/cancel", summary="Cancel a job", responses=errors(404, 409))
def cancel_compile_job(job_id: JobId, caller: JobActor, session: SessionDep) -> JobRead:
    """A request: the job reports `cancelled` when its running work has stopped. Asking again is no error."""
    return read_job(session, caller, service.cancel(session, project_of_job(session, caller, job_id), job_id))


@routes.delete("/compile_jobs/{job_id}", summary="Delete a job", responses=errors(404, 409))
def delete_compile_job(job_id: JobId, caller: Writer, session: SessionDep, dry_run: DryRun = False, cascade: Cascade = None) -> Deletion:
    """A job that is over, with its details and the traces that no other job used; within a minute nothing of it is left, which the audit
    log then says (`job.erased`). What it has used stays counted. A conflict for one that is not over, and for one that has an artifact or
    models unless `cascade=artifacts` is given."""
    too = cascade is not None
    if dry_run:
        found = erasing.look_at_job(session, caller.project_id, job_id, with_artifacts=too)
        return outlook_read(found, "compile.job")
    return deletion_read(erasing.delete_job(session, caller.project_id, job_id, with_artifacts=too), "compile.job")
