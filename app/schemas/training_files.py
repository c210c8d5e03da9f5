"""Training files, and the coverage report: what became of the traces."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from app.schemas.common import Page, Reply


class TokensRead(Reply):
    """Over the rows of both sides, prompt and completion together unless it says completion; percentiles are lengths of rows."""

    sum: int
    completion_sum: int
    completion_max: int | None = Field(default=None, description="Null for training files of servers that did not count it")
    p50: int
    p95: int
    max: int


class PredictorCoverageRead(Reply):
    """What became of one predictor's calls, for one key."""

    traces: int = Field(description="Traces that passed and in which it was called")
    rows: int
    validation_rows: int
    rejected: dict[str, int] = Field(description="Calls that gave no row, by reason")
    left_out: dict[str, int] = Field(description="Rows that were not kept: `duplicate`, `top_k`, `max_rows`")
    tokens: TokensRead
    labels: dict[str, dict[str, int]] = Field(description="For outputs with a closed set of values: how many rows say which")


class KeyCoverageRead(Reply):
    """One fine-tune job, and the predictors whose rows it trains on."""

    lm: str
    predictor: str
    rows: int
    validation_rows: int
    tokens: TokensRead
    predictors: dict[str, PredictorCoverageRead]


class CoverageRead(Reply):
    """`traces` counts the teacher's rollouts that left a trace, `passed` those whose score reaches the bar."""

    traces: int
    passed: int
    keys: list[KeyCoverageRead]


class TrainingFileRead(Reply):
    """The records of one fine-tune job, as they went to the trainer."""

    object: Literal["training_file"] = "training_file"
    fine_tuning_job: str
    lm: str
    predictor: str
    rows: int
    validation_rows: int
    digest: str
    size_bytes: int
    validation_digest: str | None = None
    content: str = Field(description="Path of the records as JSON Lines; `?format=openai`, `?part=validation`")


class TrainingFilesRead(Page[TrainingFileRead]):
    """All training files of a job."""

    coverage: CoverageRead | None = Field(default=None, description="Once `prepare` is done, or has stopped the job for want of rows")
