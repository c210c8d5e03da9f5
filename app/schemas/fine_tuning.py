"""Fine-tune jobs in OpenAI's shape; only OpenAI's statuses are shown."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from app.schemas.common import Reply


class FineTuneError(Reply):
    code: str
    message: str
    param: str | None = None


class ChildFineTuneJob(Reply):
    """A fine-tune job inside its compile job."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    lm: str
    predictor: str = Field(description="Empty when all predictors of the LM share the job (multitask)")
    status: str
    rows: int | None
    progress: dict[str, Any] | None = Field(description="While it trains: step, total_steps, percent, seconds_remaining")
    fine_tuned_model: str | None
    reused_from: str | None = Field(description="The fine-tune job that trained the model, where an equal training was found")
    train_options: dict[str, Any] | None = Field(description="Those that it was trained with, none of them `auto`; null until it is")
    error: FineTuneError | None


class FineTuneJobRead(Reply):
    """OpenAI's `fine_tuning.job`; in a compile job's child `metadata.compile_job_id` names the parent."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    status: str = Field(description="validating_files, queued, running, succeeded, failed or cancelled")
    training_file: str | None = Field(description="`file-…`; of a compile job's child the digest of its rows")
    validation_file: str | None
    trained_tokens: int | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    seed: int
    organization_id: str
    result_files: list[str] = Field(default_factory=list)
    integrations: list[dict[str, Any]] = Field(default_factory=list)
    estimated_finish: int | None = None
    error: FineTuneError | None
    metadata: dict[str, str]


class FineTuneEventRead(Reply):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: Literal["message", "metrics"] = "message"
    data: dict[str, Any] = Field(default_factory=dict)


class FineTuneCheckpointRead(Reply):
    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str = Field(description="Empty for one that training goes on from: no such model can be asked")
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float | None]


class LogRead(Reply):
    """What the trainer wrote for one fine-tune job; while it trains, the last 16 KiB."""

    object: Literal["fine_tuning.job.log"] = "fine_tuning.job.log"
    fine_tuning_job: str
    lm: str
    predictor: str
    status: str
    reused_from: str | None = Field(description="The fine-tune job whose training this log is of, where it was not trained again")
    text: str
    truncated: bool = Field(description="It begins later than the log does")
