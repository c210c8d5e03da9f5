"""Checkpoints of fine-tune jobs, in the blob store: where a training may be taken up again by any worker.

Each function works in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from distill.catalog import blobs
from distill.db import Session
from distill.jobs import claims, events, repository
from distill.jobs.claims import Claim
from distill.jobs.models import Checkpoint, FineTuneJob
from distill.storage import BlobStore

KEPT = 2
"""The newest, and one before it for the case that the newest turns out to be damaged."""

_KEEP_NEWEST = text("""
DELETE FROM checkpoints WHERE fine_tune_job_id = :id
   AND step NOT IN (SELECT step FROM checkpoints WHERE fine_tune_job_id = :id ORDER BY step DESC LIMIT :kept)
""")

# Their jobs are held: whoever retries one either comes before, or finds none of its checkpoints.
_OLD_FAILURES = text("""
SELECT id FROM jobs WHERE status = 'failed' AND finished_at <= clock_timestamp() - make_interval(secs => :seconds)
   AND id IN (SELECT f.job_id FROM checkpoints c JOIN fine_tune_jobs f ON f.id = c.fine_tune_job_id)
 ORDER BY id LIMIT 100 FOR NO KEY UPDATE SKIP LOCKED
""")
# A retry begins anew: as far as `checkpoint_step` nothing of it would count as progress, which forgives lost leases.
_DROP_OF_JOBS = text("""
WITH dropped AS (
  DELETE FROM checkpoints WHERE fine_tune_job_id IN (SELECT id FROM fine_tune_jobs WHERE job_id = ANY(:jobs)) RETURNING fine_tune_job_id)
UPDATE fine_tune_jobs SET checkpoint_step = NULL WHERE id IN (SELECT fine_tune_job_id FROM dropped)
""")


def record(s: Session, claim: Claim, store: BlobStore, step: int, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Point at a checkpoint whose files are in the store, `{name: {"digest", "size_bytes"}}`, and let go of all but two.

    It counts as progress: leases lost before it are forgiven. Raises LostLease, StorageError.
    """
    claims.hold(s, claim)
    repository.lock(s, claim.job_id)
    blobs.register(s, store, *(entry["digest"] for entry in files.values()))
    key = str(claim.fine_tune_job_id)
    values = {"fine_tune_job_id": key, "step": step, "fence": claim.fence, "files": dict(files)}
    again = {"fence": claim.fence, "files": dict(files), "created_at": func.clock_timestamp()}
    s.execute(insert(Checkpoint).values(values).on_conflict_do_update(index_elements=["fine_tune_job_id", "step"], set_=again))
    s.execute(_KEEP_NEWEST, {"id": key, "kept": KEPT})
    s.execute(update(FineTuneJob).where(FineTuneJob.id == key).values(checkpoint_step=step))
    data = {"fine_tuning_job": key, "step": step}
    events.append(s, claim.job_id, "checkpoint", f"Checkpoint at training step {step}", data)


def newest_first(s: Session, fine_tune_job_id: str) -> Sequence[Checkpoint]:
    query = select(Checkpoint).where(Checkpoint.fine_tune_job_id == fine_tune_job_id).order_by(Checkpoint.step.desc())
    return s.scalars(query).all()


def refuse(s: Session, claim: Claim, step: int, why: str) -> None:
    """Leave out a checkpoint that cannot be gone on from, and say so in the job's log. Raises LostLease."""
    claims.hold(s, claim)
    repository.lock(s, claim.job_id)
    s.execute(delete(Checkpoint).where(Checkpoint.fine_tune_job_id == claim.fine_tune_job_id, Checkpoint.step == step))
    data = {"fine_tuning_job": claim.fine_tune_job_id, "step": step}
    events.append(s, claim.job_id, "warning", f"The checkpoint at training step {step} is left out: {why}", data, "warning")


def drop(s: Session, fine_tune_job_id: str) -> None:
    """The training is over and nobody goes on from them."""
    s.execute(delete(Checkpoint).where(Checkpoint.fine_tune_job_id == fine_tune_job_id))


def prune(s: Session, kept_seconds: float) -> None:
    """Drop those of jobs that failed so long ago: nobody has retried them, and a retry now trains from the beginning."""
    if jobs := s.scalars(_OLD_FAILURES, {"seconds": kept_seconds}).all():
        s.execute(_DROP_OF_JOBS, {"jobs": list(jobs)})
