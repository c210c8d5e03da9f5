"""Collecting what a job's reply is made of."""

from __future__ import annotations

from app.schemas.compile_jobs import JobRead
from app.views.compile_jobs import JobParts, job_read
from distill.catalog import artifacts
from distill.catalog.keys import Caller
from distill.db import Session
from distill.jobs import repository
from distill.jobs.models import Job


def read_job(session: Session, caller: Caller, job: Job) -> JobRead:
    """The job with its steps, fine-tune jobs, place in the queue and artifact."""
    artifact = artifacts.of_job(session, job.id)
    return job_read(
        JobParts(
            job=job,
            spec=repository.spec_of(job),
            project=caller.project_name,
            steps=repository.steps(session, job.id),
            fine_tune_jobs=repository.fine_tune_jobs(session, job.id),
            waiting=repository.waiting(session, job),
            artifact=(artifact.id, artifact.name) if artifact else None,
        )
    )
