"""The parts of a compile job's request: LMs, teachers, metric, options."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from app.schemas.common import Body

Auto = Literal["auto"]
Positive = Annotated[int, Field(ge=1)]


class EarlyStopping(Body):
    patience: Positive = 2
    min_delta: float = Field(default=0.0, ge=0)


class TrainOptionsIn(Body):
    """Each option takes a number or `"auto"`."""

    n_epochs: Positive | Auto | None = None
    batch_size: Positive | Auto | None = None
    learning_rate: Annotated[float, Field(gt=0)] | Auto | None = None
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | Auto | None = None
    lora_r: Positive | Auto | None = None
    lora_alpha: Annotated[float, Field(gt=0)] | Auto | None = None
    max_seq_length: Positive | Auto | None = None
    early_stopping: EarlyStopping | None = None


PromptAdapterIn = str | dict[str, Any]


class LmIn(Body):
    """One LM role: where it answers, what is trained, how it generates."""

    connection: str | None = Field(default=None, description="A connection's name; the default student or teacher connection if absent")
    model: str | None = None
    base_model: str | None = None
    trainer: str | None = None
    train_options: TrainOptionsIn | None = None
    prompt_adapter: PromptAdapterIn | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    constrain: bool | None = Field(default=None, description="Ask the LM host to let only answers through that parse")


class TeacherIn(Body):
    """A teacher: another program, or the student's own with other LMs."""

    program: str | dict[str, Any] | None = None
    lms: dict[str, LmIn] = Field(default_factory=dict)


class HoldoutIn(Body):
    """Rows of the trainset held out for evaluation, chosen by the hash of the row."""

    fraction: float | None = Field(default=None, gt=0, lt=1)
    n: int | None = Field(default=None, ge=0)


class FilterIn(Body):
    min_score: float | None = None
    max_rows: Positive | None = None
    dedup: bool | None = None
    top_k: Positive | None = None


class RolloutsIn(Body):
    n: int | None = Field(default=None, ge=1, le=64)
    temperature: float | None = Field(default=None, ge=0, le=2)
    stop_on_pass: bool | None = None


class EvaluateIn(Body):
    roles: list[Literal["baseline", "baseline_constrained", "teacher", "compiled"]] | None = None


class BudgetIn(Body):
    max_calls: Positive | None = None
