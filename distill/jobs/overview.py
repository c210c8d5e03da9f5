"""What stands around jobs, for readers: steps, fine-tune jobs, place in the queue, artifact. A list costs as many queries as one job."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from distill.catalog import usage
from distill.catalog.models import Artifact
from distill.catalog.usage import LmCost
from distill.db import Session
from distill.jobs import line, repository
from distill.jobs.line import Waiting
from distill.jobs.models import FineTuneJob, Job, JobStep
from distill.jobs.repository import StepView


@dataclass(frozen=True, slots=True)
class Overview:
    """Of one job."""

    steps: list[StepView]
    fine_tune_jobs: list[FineTuneJob]
    waiting: Waiting | None
    artifact: Artifact | None
    costs: list[LmCost]


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
    return {
        job.id: Overview(
            repository.step_views(steps[job.id]),
            children[job.id],
            waiting.get(job.id),
            artifacts.get(job.id),
            costs.get(job.id, []),
        )
        for job in jobs
    }
