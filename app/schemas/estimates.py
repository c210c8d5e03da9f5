"""What a job would come to, before it is made."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from app.schemas.common import Reply
from app.schemas.compile_jobs import WarningRead


class RoleEstimateRead(Reply):
    """One role. A number that nobody can know yet is null."""

    role: str = Field(description="`teacher:0`, `baseline`, `compiled`, …, as in traces")
    examples: int
    stored: int = Field(description="Examples whose rollouts the project has already: they are not run again")
    rollouts: int = Field(description="To be run, at most: where samples end at the first that passes there will be fewer")
    calls: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    usd: float | None
    seconds: float | None = Field(description="Of all its rollouts, one after the other")


class TrainingEstimateRead(Reply):
    fine_tuning_jobs: int = Field(description="To be trained")
    reused: int = Field(description="Whose training an earlier job has made")
    compute_seconds: float | None
    compute_usd: float | None


class RowsEstimateRead(Reply):
    train: int
    holdout: int


class EstimateRead(Reply):
    """Sums are null while a part of them is not known; `unknown` names the parts."""

    object: Literal["compile.job.estimate"] = "compile.job.estimate"
    spec_digest: str
    rows: RowsEstimateRead
    calls: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    total_usd: float | None = Field(description="LM calls and training, in US dollars")
    seconds: float | None = Field(description="Of the whole job, `num_threads` rollouts at once")
    training: TrainingEstimateRead
    roles: list[RoleEstimateRead]
    unknown: list[str]
    warnings: list[WarningRead]
