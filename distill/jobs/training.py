"""When keys fail: the others go on, their models are kept, and the job fails when the last of them has ended.

Every function works in the caller's transaction and under the job's lock.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import text

from distill.db import Session
from distill.errors import JobFault
from distill.jobs import claim_sql as sql
from distill.jobs import events, repository
from distill.jobs.lifecycle import settle, transition
from distill.jobs.models import FineTuneJob, Job
from distill.jobs.status import FineTuneStatus, JobKind, JobStatus, Step

_ANY_OPEN = text("""
SELECT EXISTS (SELECT 1 FROM work_items WHERE job_id = :job_id AND step = 'train' AND status IN ('queued', 'leased'))
""")


def key_name(key: FineTuneJob) -> str:
    """What a key is called in messages: its LM, and its predictor unless the LM's predictors share the training."""
    lm = " and ".join(key.lms)
    return f"LM {lm}, predictor `{key.predictor}`" if key.predictor else f"LM {lm}"


def fail_key(s: Session, job_id: str, fine_tune_job_id: str, fault: JobFault) -> None:
    """A key cannot be trained. Its job fails now if this was the last one open, else when that has ended."""
    job = repository.lock(s, job_id)
    s.execute(sql.FINISH_FINE_TUNE, {"id": fine_tune_job_id, "status": "failed", "error": json.dumps(fault.as_json())})
    key = repository.fine_tune_job(s, job.project_id, fine_tune_job_id)
    data = {"fine_tuning_job": key.id, "code": fault.code, "step": str(Step.TRAIN)}
    events.append(s, job.id, "log", f"{key_name(key)} could not be trained: {fault.message}", data, "error")
    fail_if_over(s, job)
    settle(s, job)


def fail_if_over(s: Session, job: Job) -> None:
    """Fail a locked job when no key of it is trained any more and some could not be."""
    if not JobStatus(job.status).is_claimable or job.cancel_requested_at or s.execute(_ANY_OPEN, {"job_id": job.id}).scalar_one():
        return
    keys = repository.fine_tune_jobs(s, job.id)
    failed = [key for key in keys if key.status == FineTuneStatus.FAILED]
    if failed:
        alone = job.kind == JobKind.FINE_TUNE
        fault = _own(failed[0]) if alone else _fault(job, failed, sum(key.status == FineTuneStatus.SUCCEEDED for key in keys))
        transition(s, job, JobStatus.FAILED, message=fault.message, error=fault)


def _own(key: FineTuneJob) -> JobFault:
    """A fine-tuning job has one key, whose error is its own."""
    return JobFault(**(key.error or {}))


def _fault(job: Job, failed: Sequence[FineTuneJob], succeeded: int) -> JobFault:
    """One error for the job: which keys, why, what is kept, and the way on."""
    errors = [key.error or {} for key in failed]
    why = "; ".join(f"{key_name(key)} ({key.id}): {error.get('message')}" for key, error in zip(failed, errors, strict=True))
    count = f"{len(failed)} of {len(failed) + succeeded} fine-tune jobs failed"
    kept = f" The models of the other {succeeded} are kept." if succeeded else ""
    codes = {str(error.get("code")) for error in errors}
    return JobFault(
        code=codes.pop() if len(codes) == 1 else "fine_tune_jobs_failed",
        message=f"{count}. {why}.{kept} POST /v1/compile_jobs/{job.id}/retry trains only what failed.",
        category="user" if any(error.get("category") == "user" for error in errors) else "system",
        param=errors[0].get("param") if len(errors) == 1 else None,
        step=str(Step.TRAIN),
        retryable=any(bool(error.get("retryable")) for error in errors),
    )
