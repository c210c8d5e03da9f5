"""A user's retry: the one way out of `failed`. What failed is queued again, what succeeded stays.

It works under the job's lock, and takes items with SKIP LOCKED as everybody does who holds it. An item that is still leased from the
round before is left to its holder, who may publish: the job is not over any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from distill.catalog import datasets
from distill.db import Session
from distill.errors import Conflict, Invalid
from distill.jobs import bundle_use, facts, outbox, quotas, repository, steps, trained
from distill.jobs.lifecycle import transition
from distill.jobs.models import FineTuneJob, Job
from distill.jobs.status import FineTuneStatus, JobStatus, Step

_READS_TRACES = (Step.BOOTSTRAP, Step.PREPARE)
"""Where a job stands that still reads traces of rollouts that are done."""
_REOPEN_STEPS = text("""
UPDATE job_steps SET status = CASE WHEN started_at IS NULL THEN 'queued' ELSE 'running' END, error = NULL, finished_at = NULL
 WHERE job_id = :job_id AND status IN ('failed', 'cancelled')
""")
_BEGIN_STEP_ANEW = text("""
UPDATE job_steps SET status = 'queued', error = NULL, finished_at = NULL, started_at = NULL, done = 0, counts = '{}'
 WHERE job_id = :job_id AND name = :step AND status = 'succeeded'
   AND NOT EXISTS (SELECT 1 FROM job_steps f WHERE f.job_id = :job_id AND f.status = 'failed')
RETURNING name
""")
_REOPEN_KEYS = text("""
UPDATE fine_tune_jobs f
   SET status = CASE WHEN EXISTS (SELECT 1 FROM work_items w WHERE w.fine_tune_job_id = f.id AND w.status = 'leased')
                     THEN 'running' ELSE 'queued' END,
       error = NULL, finished_at = NULL, progress = NULL, earlier_seconds = earlier_seconds + trained_seconds, trained_seconds = 0
 WHERE f.job_id = :job_id AND f.status IN ('failed', 'cancelled') AND f.id <> ALL (CAST(:left AS text[]))
""")
_REQUEUE = text("""
UPDATE work_items
   SET status = 'queued', held = (step = 'evaluate' AND kind = 'compiled'), attempts = 0, losses = 0, furthest = 0,
       error = NULL, result = NULL, progress = NULL, started_at = NULL, finished_at = NULL, waits_since = NULL,
       run_after = clock_timestamp(), hinted_at = clock_timestamp()
 WHERE id IN (SELECT id FROM work_items
               WHERE job_id = :job_id AND (status IN ('failed', 'cancelled') OR status = 'succeeded' AND step = :anew)
                 AND (fine_tune_job_id IS NULL OR fine_tune_job_id <> ALL (CAST(:left AS text[])))
                 FOR UPDATE SKIP LOCKED)
RETURNING queue, held
""")


def retry(s: Session, project_id: str, job_id: str, fine_tune_job_id: str | None = None) -> Job:
    """Queue again what failed of a job, and what its failure cancelled; with a fine-tune job named, of the failed ones only that one.

    Raises NotFound, QuotaExceeded, Conflict for a job that has not failed or has lost a model or its code, Invalid for a fine-tune job that
    is not a failed one of this job.
    """
    repository.get(s, project_id, job_id)
    job = repository.lock(s, job_id)
    if job.status != JobStatus.FAILED:
        raise Conflict(f"job {job.id} is {job.status}; only a failed job can be retried", code="wrong_status", param="id")
    _check_rows(s, job)
    quotas.check_new_job(s, project_id)
    trained.hold_all(s, job.id)
    _hold_code(s, job)
    left = _left_failed(repository.fine_tune_jobs(s, job.id), fine_tune_job_id)
    anew = _begin_anew(s, job)
    if job.step in _READS_TRACES and anew != Step.BOOTSTRAP and facts.lacks_traces(s, job):
        raise Conflict(f"job {job.id} cannot go on: traces of it were removed. Make a new job.", code="job_erased", param="id")
    s.execute(_REOPEN_STEPS, {"job_id": job.id})
    s.execute(_REOPEN_KEYS, {"job_id": job.id, "left": left})
    requeued = s.execute(_REQUEUE, {"job_id": job.id, "left": left, "anew": anew}).all()
    job.round += 1
    job.events_removed_at = None
    s.flush()
    transition(s, job, JobStatus.QUEUED, message=f"Retried: round {job.round}")
    outbox.add_for(s, (row.queue for row in requeued if not row.held), job.id)
    trained.load_again(s, job)
    steps.point_at_oldest_open(s, job)
    s.refresh(job)
    return job


def _check_rows(s: Session, job: Job) -> None:
    """Raises Conflict for a job whose details or datasets are gone."""
    used = [name for name in (job.trainset_id, job.valset_id) if name is not None]
    gone = [name for name in used if datasets.hold_by_id(s, name).deleted_at is not None]
    if job.erased_at is not None or gone:
        why = f"dataset {gone[0]} was deleted" if gone else "its details were erased"
        raise Conflict(f"job {job.id} cannot go on: {why}. Make a new job.", code="job_erased", param="id")


def _hold_code(s: Session, job: Job) -> None:
    """Raises Conflict where code of the job was deleted."""
    try:
        bundle_use.hold(s, job.project_id, repository.spec_of(job))
    except Invalid as error:
        raise Conflict(error.message, code=error.code, param="id") from None


def _left_failed(keys: Sequence[FineTuneJob], chosen: str | None) -> list[str]:
    """The failed fine-tune jobs that stay so."""
    if chosen is None:
        return []
    failed = [key.id for key in keys if key.status == FineTuneStatus.FAILED]
    if chosen not in failed:
        known = f"failed: {', '.join(failed)}" if failed else "none has failed"
        message = f"fine_tuning_job: {chosen} is not a failed fine-tune job of this job ({known})"
        raise Invalid(message, code="not_a_failed_fine_tuning_job", param="fine_tuning_job")
    return [key for key in failed if key != chosen]


def _begin_anew(s: Session, job: Job) -> str | None:
    """The step whose outcome the job failed by, although its items all succeeded: nothing less than all of it can go better."""
    named = (job.error or {}).get("step")
    begun: str | None = s.scalar(_BEGIN_STEP_ANEW, {"job_id": job.id, "step": named})
    return begun
