"""What stands around jobs, for readers: steps, fine-tune jobs, place in the queue, artifact. A list costs as many queries as one job."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select

from distill.catalog import usage
from distill.catalog.models import ApiKey, Artifact
from distill.catalog.usage import LmCost
from distill.db import Session
from distill.jobs import line, repository
from distill.jobs.line import Waiting
from distill.jobs.models import FineTuneJob, Job, JobStep
from distill.jobs.repository import StepView
from distill.jobs.status import JobStatus, StepStatus
from distill.jobs.trainer_queue import Active


@dataclass(frozen=True, slots=True)
class Overview:
    """Of one job."""

    steps: list[StepView]
    fine_tune_jobs: list[FineTuneJob]
    waiting: Waiting | None
    artifact: Artifact | None
    costs: list[LmCost]
    active: Active
    owner: str | None
    """The label of the key that made it."""


def overviews(s: Session, jobs: Sequence[Job]) -> dict[str, Overview]:
    """`{job id: overview}`, in as many queries for many jobs as for one."""
    ids = [job.id for job in jobs]
    steps: dict[str, list[JobStep]] = defaultdict(list)
    for step in s.scalars(select(JobStep).where(JobStep.job_id.in_(ids)).execution_options(populate_existing=True)):
        steps[step.job_id].append(step)
    children: dict[str, list[FineTuneJob]] = defaultdict(list)
    query = select(FineTuneJob).where(FineTuneJob.job_id.in_(ids)).order_by(FineTuneJob.id)
    for child in s.scalars(query.execution_options(populate_existing=True)):
        children[child.job_id].append(child)
    artifacts = {row.job_id: row for row in s.scalars(select(Artifact).where(Artifact.job_id.in_(ids), Artifact.deleted_at.is_(None)))}
    costs = usage.of_jobs(s, ids)
    waiting = line.waiting(s, jobs)
    active = Active.read(s, ids)
    keys = {job.created_by for job in jobs} - {None}
    labels = {row.id: row.label for row in s.execute(select(ApiKey.id, ApiKey.label).where(ApiKey.id.in_(keys)))}
    return {
        job.id: Overview(
            [_shown(job, step, active) for step in repository.step_views(steps[job.id])],
            children[job.id],
            waiting.get(job.id),
            artifacts.get(job.id),
            costs.get(job.id, []),
            active,
            labels.get(job.created_by or ""),
        )
        for job in jobs
    }


def _shown(job: Job, step: StepView, active: Active) -> StepView:
    """A step that has begun is `queued` again while nothing of it runs."""
    waits = step.status == StepStatus.RUNNING and (job.id, step.name) not in active.steps
    return replace(step, status=str(StepStatus.QUEUED)) if waits and not JobStatus(job.status).is_terminal else step
