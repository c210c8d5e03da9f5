"""Training files as their readers see them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from app.schemas.training_files import CoverageRead, TrainingFileRead, TrainingFilesRead
from distill.jobs.models import FineTuneJob, Job
from distill.storage import BlobStore


def training_files_read(store: BlobStore, job: Job, rows: Iterable[FineTuneJob], coverage: Mapping[str, Any] | None) -> TrainingFilesRead:
    """The files that are made so far."""
    data = [_file(store, job, row, row.training_file) for row in rows if row.training_file]
    return TrainingFilesRead(data=data, coverage=CoverageRead.model_validate(coverage) if coverage else None)


def _file(store: BlobStore, job: Job, row: FineTuneJob, digest: str) -> TrainingFileRead:
    return TrainingFileRead(
        fine_tuning_job=row.id,
        lm=",".join(row.lms),
        predictor=row.predictor,
        rows=row.rows or 0,
        validation_rows=row.validation_rows or 0,
        digest=digest,
        size_bytes=store.size(digest),
        validation_digest=row.validation_file,
        content=f"/v1/compile_jobs/{job.id}/training_files/{row.id}/content",
    )


def file_name(row: FineTuneJob, part: str) -> str:
    """What a download of one side is saved as, without its ending."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", row.predictor or "-".join(row.lms)).strip("-.")
    return f"{name or 'rows'}-{part}"
