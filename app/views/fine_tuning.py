"""Fine-tune jobs in OpenAI's words."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from app.schemas.fine_tuning import FineTuneCheckpointRead, FineTuneError, FineTuneEventRead, FineTuneJobRead, LogRead
from app.views.convert import seconds
from distill.catalog import fine_tuned
from distill.jobs import fine_tuning
from distill.jobs.models import Checkpoint, FineTuneJob, Job, JobEvent
from distill.jobs.status import FineTuneStatus, JobStatus, Step
from distill.jobs.trainer_queue import Active
from distill.storage import BlobStore

_MOST_LOG_BYTES = 2**20


def fine_tune_read(row: FineTuneJob, active: Active, job: Job | None = None) -> FineTuneJobRead:
    """OpenAI's object; `active` covers its job. `job` is the fine-tuning job itself; a compile job's child has none, and
    `metadata.compile_job_id` names its parent, whose controls are the only ones."""
    options = {**row.options, **((row.result or {}).get("options") or {})}
    options = {name: value for name, value in options.items() if value is not None}
    spec = fine_tuning.spec_of(job) if job else None
    return FineTuneJobRead(
        id=row.id,
        created_at=seconds(row.created_at),
        finished_at=seconds(job.finished_at if job else row.finished_at),
        model=row.base_model,
        fine_tuned_model=fine_tuned.public_id(row.model_id) if row.model_id else None,
        status=_status(job, row, active) if job else active.status_of(row),
        training_file=spec.training_file if spec else row.training_file,
        validation_file=spec.validation_file if spec else row.validation_file,
        trained_tokens=(row.result or {}).get("tokens"),
        hyperparameters=options,
        method={"type": "supervised", "supervised": {"hyperparameters": options}},
        seed=spec.seed if spec else int(row.options.get("seed") or 0),
        organization_id=row.project_id,
        estimated_finish=_estimated_finish(row),
        error=fine_tune_error(job.error if job else row.error),
        metadata=dict(job.user_metadata) if job else _parent(row),
    )


def _status(job: Job, row: FineTuneJob, active: Active) -> str:
    """OpenAI's clients know no other words than its own: a paused job is shown as running."""
    if JobStatus(job.status).is_terminal:
        return job.status
    if job.status == JobStatus.PAUSED:
        return "running"
    return "validating_files" if job.step == Step.VALIDATE else active.status_of(row)


def _estimated_finish(row: FineTuneJob) -> int | None:
    left = (row.progress or {}).get("seconds_remaining") if row.status == FineTuneStatus.RUNNING else None
    return None if left is None else int(time.time() + left)


def _parent(row: FineTuneJob) -> dict[str, str]:
    reused = {"reused_from": row.reused_from} if row.reused_from else {}
    return {"compile_job_id": row.job_id, "lm": ",".join(row.lms), "predictor": row.predictor, **reused}


def checkpoints_of(
    row: FineTuneJob, model: str | None, kept: Sequence[Checkpoint], told: Sequence[Mapping[str, Any]]
) -> list[FineTuneCheckpointRead]:
    """The model itself, which is the best checkpoint of its training; before there is one, those that training goes on from, with the
    losses that it has `told` by then."""
    if model is None or row.finished_at is None:
        return [_kept(row, each, told) for each in kept]
    result = row.result or {}
    step = int(result.get("best_step") or result.get("steps") or 0)
    return [
        FineTuneCheckpointRead(
            id=f"ftckpt-{row.id.removeprefix('ftjob-')}-{step}",
            created_at=seconds(row.finished_at),
            fine_tuned_model_checkpoint=model,
            fine_tuning_job_id=row.id,
            step_number=step,
            metrics={"step": step, "train_loss": result.get("final_loss"), "valid_loss": result.get("validation_loss")},
        )
    ]


def _kept(row: FineTuneJob, kept: Checkpoint, told: Sequence[Mapping[str, Any]]) -> FineTuneCheckpointRead:
    before = [point for point in told if point["step"] <= kept.step]
    losses = {name: next((point[name] for point in reversed(before) if point.get(name) is not None), None) for name in _LOSSES}
    return FineTuneCheckpointRead(
        id=f"ftckpt-{row.id.removeprefix('ftjob-')}-{kept.step}",
        created_at=seconds(kept.created_at),
        fine_tuned_model_checkpoint="",
        fine_tuning_job_id=row.id,
        step_number=kept.step,
        metrics={"step": kept.step, **{_LOSSES[name]: loss for name, loss in losses.items()}},
    )


_LOSSES = {"loss": "train_loss", "validation_loss": "valid_loss"}
"""A curve's words, and OpenAI's."""


def fine_tune_error(error: dict[str, Any] | None) -> FineTuneError | None:
    if not error:
        return None
    return FineTuneError(code=str(error.get("code", "error")), message=str(error.get("message", "")), param=error.get("param"))


def log_read(store: BlobStore, row: FineTuneJob, tail: int | None = None) -> LogRead:
    """The end of what is there now while it trains, else the log of its last attempt; at most `tail` lines of it."""
    text, truncated = row.log_tail or "", True
    if row.log_tail is None and row.log is not None:
        size = store.size(row.log)
        with store.open(row.log) as file:
            file.seek(max(0, size - _MOST_LOG_BYTES))
            text, truncated = file.read().decode("utf-8", errors="replace"), size > _MOST_LOG_BYTES
    lines = text.splitlines(keepends=True)
    if tail is not None and len(lines) > tail:
        text, truncated = "".join(lines[-tail:]), True
    return LogRead(
        fine_tuning_job=row.id,
        lm=",".join(row.lms),
        predictor=row.predictor,
        status=row.status,
        reused_from=row.reused_from,
        text=text,
        truncated=truncated and bool(text),
    )


def fine_tune_event(event: JobEvent) -> FineTuneEventRead:
    """An event of the job, or of the parent as the fine-tune job's own."""
    data = event.data or {}
    return FineTuneEventRead(
        id=f"ftevent-{event.job_id.partition('-')[2]}-{event.seq}",
        created_at=seconds(event.created_at),
        level={"warning": "warn"}.get(event.level, event.level),
        message=event.message,
        type="metrics" if event.type == "train.curve" else "message",
        data=data,
    )
