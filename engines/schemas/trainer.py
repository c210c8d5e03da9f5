"""What the trainer reads from its work folder and what it leaves there. Pure pydantic: no torch.

A work folder holds ``job.json`` (TrainerJob), the rows (one TrainingRow a line) and, while and after training,
``curve.jsonl`` (CurveLine), ``progress.json`` (Progress, also touched while it evaluates), ``checkpoints/step-<n>/`` whose
``manifest.json`` names every file by digest, ``log.txt`` and at the end either ``result.json`` (TrainerResult) with the LoRA adapter in
``out/``, or ``error.json`` (TrainerError).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engines.schemas.options import Auto, Contract, PositiveFloat, ResolvedOptions, TrainOptions

Dtype = Literal["float32", "bfloat16"]


class TrainerJob(Contract):
    """job.json. File names are relative to the work folder; ``resume_from`` is a checkpoint folder. ``start_from`` is the folder of a
    LoRA adapter of the same base model, whose weights the training begins with; it keeps their rank and scale.

    Checkpoints are at most ``checkpoint_seconds`` apart, as far as training steps are no longer than that.
    """

    schema_version: Literal[1] = 1
    base_model: str
    rows: str = "rows.jsonl"
    validation_rows: str | None = None
    options: TrainOptions = TrainOptions()
    seed: int = 0
    resume_from: str | None = None
    start_from: str | None = None
    max_seconds: PositiveFloat | None = None
    checkpoint_seconds: PositiveFloat = 600.0
    dtype: Dtype | Auto = "auto"


class ChatMessage(Contract):
    """One chat turn, in the shape of OpenAI's chat completions: an assistant may call tools and reason beside the text."""

    role: str
    content: str
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None


class TrainingRow(BaseModel):
    """One line of rows.jsonl: the loss is on ``completion`` alone, its end-of-turn token included. Other keys are ignored.

    ``tools`` are those the request offers, in OpenAI's shape.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt: Annotated[list[ChatMessage], Field(min_length=1)]
    completion: Annotated[list[ChatMessage], Field(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    digest: str | None = None


class CurveLine(Contract):
    """One training step: mean loss per completion token, tokens/s counted over whole rows, ``at`` in Unix seconds.

    ``validation_exact_match`` is the share of validation rows whose every answer token is the likeliest after the right ones before it.
    """

    step: int
    epoch: float
    loss: float
    validation_loss: float | None = None
    validation_exact_match: float | None = None
    learning_rate: float
    tokens_per_second: float
    at: float


class Progress(Contract):
    """Where training stands; ``percent`` 0-100, ``seconds_remaining`` by the pace so far, None before the first step."""

    step: int
    total_steps: int
    epoch: float
    percent: float
    seconds_remaining: float | None


class TrainerResult(Contract):
    """result.json. ``tokens`` counts every token of every row seen; ``shared_prefix_tokens`` those that sharing left out."""

    status: Literal["succeeded"] = "succeeded"
    stopped_by: Literal["completed", "early_stopping", "max_seconds"]
    steps: int
    epochs: float
    rows: int
    validation_rows: int
    tokens: int
    tokens_per_second: float
    peak_memory_bytes: int
    seconds: float
    dtype: Dtype
    best_step: int
    final_loss: float
    validation_loss: float | None
    validation_exact_match: float | None = None
    base_model: str
    base_model_digest: str
    shared_prefix_tokens: int
    options: ResolvedOptions


class TrainerError(Contract):
    """error.json: the input cannot be trained on, or memory has run out; ``param`` names the part of the job that is at fault."""

    code: str
    message: str
    param: str | None = None
