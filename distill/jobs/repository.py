"""Reads of jobs, for doors and steps. Another project's job is not found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Select, case, func, select

from distill.catalog.models import ApiKey, Artifact, Model
from distill.db import JsonDoc, Listing, Page, Session, paginate
from distill.errors import NotFound
from distill.jobs.models import FineTuneJob, Job, JobStep, WorkItem
from distill.jobs.status import JobKind, JobStatus, Step, StepStatus
from distill.spec import CompileSpec

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What a list of jobs is narrowed to. `program` is a program's id or a job's `program_name`, `created_by` a key's id or label."""

    status: str | None = None
    step: str | None = None
    created_by: str | None = None
    program: str | None = None


@dataclass(frozen=True, slots=True)
class StepView:
    """A step as readers see it: `prepare` and its assembly are one."""

    name: str
    status: str
    done: int
    total: int
    counts: dict[str, Any]
    error: dict[str, Any] | None
    started_at: datetime | None
    finished_at: datetime | None


def get(s: Session, project_id: str, job_id: str, kind: JobKind = JobKind.COMPILE) -> Job:
    job = s.scalar(select(Job).where(Job.id == job_id, Job.project_id == project_id, Job.kind == str(kind), Job.deleted_at.is_(None)))
    if job is None:
        raise NotFound(f"no {'compile' if kind is JobKind.COMPILE else 'fine-tuning'} job {job_id}", param="id")
    return job


def project_of(s: Session, job_id: str) -> str | None:
    """The id of the project that a job belongs to; None where there is no such job."""
    return s.scalar(select(Job.project_id).where(Job.id == job_id))


def by_id(s: Session, job_id: str) -> Job:
    """A job by id alone, for the house's own processes. Raises NotFound."""
    job = s.get(Job, job_id)
    if job is None:
        raise NotFound(f"no job {job_id}")
    return job


def is_over(job: Job) -> bool:
    return JobStatus(job.status).is_terminal


def over_among(s: Session, job_ids: Iterable[str]) -> set[str]:
    """Those of the jobs of which nothing may run any more: cancelled, failed, succeeded, or to be cancelled."""
    terminal = [status for status in JobStatus if status.is_terminal]
    over = Job.status.in_(terminal) | Job.cancel_requested_at.is_not(None)
    return set(s.scalars(select(Job.id).where(Job.id.in_(list(job_ids)), over)))


def lock(s: Session, job_id: str) -> Job:
    """The job with its row locked, freshly read: steps and fine-tune jobs change under this lock. Items only with SKIP LOCKED after it.

    FOR NO KEY UPDATE: it does not collide with the key locks of rows that merely point at the job, which are written earlier.
    """
    job = s.scalar(select(Job).where(Job.id == job_id).with_for_update(key_share=True).execution_options(populate_existing=True))
    if job is None:
        raise NotFound(f"no job {job_id}")
    return job


def spec_of(job: Job) -> CompileSpec:
    return CompileSpec.model_validate_json(job.spec)


def list_jobs(s: Session, project_id: str | None, page: Page, narrow: JobFilter = JobFilter()) -> Listing[Job]:
    """Compile jobs of a project, or of all where it is None."""
    statement = select(Job).where(Job.kind == "compile", Job.deleted_at.is_(None))
    if project_id is not None:
        statement = statement.where(Job.project_id == project_id)
    return paginate(s, narrowed(statement, narrow), Job.id, page)


def newest_of(s: Session, project_id: str, spec_digest: str) -> Job | None:
    """The newest job of this digest that has its artifact and its models still, or is under way."""
    packaged = select(Artifact.id).where(Artifact.job_id == Job.id, Artifact.deleted_at.is_(None)).exists()
    used = select(Model.id).join(FineTuneJob, FineTuneJob.model_id == Model.id).where(FineTuneJob.job_id == Job.id)
    whole = packaged & ~used.where(Model.deleted_at.is_not(None)).exists()
    own = (Job.project_id == project_id, Job.kind == "compile", Job.spec_digest == spec_digest, Job.erased_at.is_(None))
    under_way = Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED])
    return s.scalar(select(Job).where(*own, under_way | whole).order_by(Job.id.desc()).limit(1))


def succeeded_of_program(s: Session, project_id: str, program_id: str, limit: int) -> list[Job]:
    """The newest succeeded jobs of a program."""
    own = (Job.project_id == project_id, Job.program_id == program_id, Job.erased_at.is_(None))
    statement = select(Job).where(*own, Job.status == "succeeded")
    return list(s.scalars(statement.order_by(Job.id.desc()).limit(limit)))


def narrowed(statement: Select[T], narrow: JobFilter) -> Select[T]:
    """A query of jobs, with the conditions of a filter."""
    if narrow.status:
        statement = statement.where(Job.status == narrow.status)
    if narrow.step:
        statement = statement.where(Job.step == narrow.step)
    if narrow.created_by:
        named = (ApiKey.id == narrow.created_by) | (ApiKey.label == narrow.created_by)
        statement = statement.where(Job.created_by.in_(select(ApiKey.id).where(named, ApiKey.project_id == Job.project_id)))
    if narrow.program:
        statement = statement.where((Job.program_id == narrow.program) | (Job.program_name == narrow.program))
    return statement


def steps(s: Session, job_id: str) -> list[StepView]:
    """The opened steps of a job, in the order of the work."""
    return step_views(s.scalars(select(JobStep).where(JobStep.job_id == job_id).execution_options(populate_existing=True)))


def step_views(found: Iterable[JobStep]) -> list[StepView]:
    """One job's step rows as readers see them."""
    rows = {Step(row.name): row for row in found}
    return [_view(rows[step], rows.get(Step.ASSEMBLE)) for step in Step if step in rows and step is not Step.ASSEMBLE]


def _view(row: JobStep, assemble: JobStep | None) -> StepView:
    if row.name != Step.PREPARE:
        return StepView(row.name, row.status, row.done, row.total, row.counts, row.error, row.started_at, row.finished_at)
    if assemble is None:
        # Its examples may all be done, but prepare is not until their parts are put together.
        status = StepStatus.RUNNING if row.status == StepStatus.SUCCEEDED else row.status
        return StepView(row.name, str(status), row.done, row.total, row.counts, row.error, row.started_at, None)
    return StepView(
        row.name,
        StepStatus.RUNNING if assemble.status == StepStatus.QUEUED else assemble.status,
        row.done,
        row.total,
        {**row.counts, **assemble.counts},
        assemble.error or row.error,
        row.started_at,
        assemble.finished_at,
    )


def items(s: Session, job_id: str, step: Step | str | None = None) -> list[WorkItem]:
    statement = select(WorkItem).where(WorkItem.job_id == job_id).order_by(WorkItem.id).execution_options(populate_existing=True)
    return list(s.scalars(statement if step is None else statement.where(WorkItem.step == str(step))))


def fine_tune_jobs(s: Session, job_id: str) -> list[FineTuneJob]:
    statement = select(FineTuneJob).where(FineTuneJob.job_id == job_id).order_by(FineTuneJob.id)
    return list(s.scalars(statement.execution_options(populate_existing=True)))


def fine_tune_job(s: Session, project_id: str, fine_tune_job_id: str) -> FineTuneJob:
    query = select(FineTuneJob).join(Job, Job.id == FineTuneJob.job_id).where(Job.deleted_at.is_(None))
    row = s.scalar(query.where(FineTuneJob.id == fine_tune_job_id, FineTuneJob.project_id == project_id))
    if row is None:
        raise NotFound(f"no fine-tuning job {fine_tune_job_id}", param="id")
    return row


def training_of(s: Session, model: Model) -> FineTuneJob:
    """The fine-tune job that trained a model; its job may have been deleted since."""
    return s.get_one(FineTuneJob, model.fine_tune_job_id)


def list_fine_tune_jobs(s: Session, project_id: str, page: Page) -> Listing[FineTuneJob]:
    """Fine-tuning jobs and children of compile jobs; each is narrowed by the metadata that it is shown with."""
    row = FineTuneJob
    statement = select(row).join(Job, Job.id == row.job_id).where(row.project_id == project_id, Job.deleted_at.is_(None))
    lm = func.array_to_string(row.lms, ",")
    parent = ("compile_job_id", Job.id, "lm", lm, "predictor", row.predictor, "reused_from", row.reused_from)
    child = func.json_build_object(*parent, type_=JsonDoc)
    shown = case((row.id == Job.id, Job.user_metadata), else_=child)
    for name, value in page.metadata.items():
        statement = statement.where(shown.op("->>")(name) == value)
    return paginate(s, statement, row.id, replace(page, metadata={}))
