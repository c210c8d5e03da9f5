"""Fine-tune jobs in OpenAI's words."""

from __future__ import annotations

from typing import Any

from app.schemas.fine_tuning import FineTuneError, FineTuneEventRead, FineTuneJobRead, LogRead
from app.views.convert import seconds
from distill.jobs.models import FineTuneJob, JobEvent
from distill.storage import BlobStore

_MOST_LOG_BYTES = 2**20


def fine_tune_read(row: FineTuneJob) -> FineTuneJobRead:
    """OpenAI's object; `metadata.compile_job_id` names the parent, whose controls are the only ones."""
    options = {name: value for name, value in row.options.items() if value is not None}
    return FineTuneJobRead(
        id=row.id,
        created_at=seconds(row.created_at),
        finished_at=seconds(row.finished_at),
        model=row.base_model,
        fine_tuned_model=row.model_id,
        status=row.status,
        training_file=row.training_file,
        validation_file=row.validation_file,
        trained_tokens=(row.result or {}).get("tokens"),
        hyperparameters=options,
        method={"type": "supervised", "supervised": {"hyperparameters": options}},
        seed=int(row.options.get("seed") or 0),
        organization_id=row.project_id,
        error=fine_tune_error(row.error),
        metadata={
            "compile_job_id": row.job_id,
            "lm": ",".join(row.lms),
            "predictor": row.predictor,
            **({"reused_from": row.reused_from} if row.reused_from else {}),
        },
    )


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
    """An event of the parent, as the fine-tune job's own."""
    data = event.data or {}
    return FineTuneEventRead(
        id=f"ftevent-{event.job_id.removeprefix('cjob-')}-{event.seq}",
        created_at=seconds(event.created_at),
        level={"warning": "warn"}.get(event.level, event.level),
        message=event.message,
        type="metrics" if event.type == "train.curve" else "message",
        data=data,
    )
