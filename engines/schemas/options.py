"""How a LoRA adapter is trained: what a user may ask for, and what a training ran with. Pure pydantic: no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Scheduler = Literal["linear", "cosine", "constant"]
Watched = Literal["loss", "exact_match"]
"""What is watched of the validation rows: their loss, or the share of them whose every answer token is the likeliest one after the tokens
before it. The latter is no metric of the program: it sees right tokens, which the model has not written, and no constraint."""
ALL_LINEAR = "all-linear"
TargetModules = Annotated[tuple[str, ...], Field(min_length=1)]


class Contract(BaseModel):
    """Base of all contracts: unknown keys are refused, so that a misspelt option never passes silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EarlyStopping(Contract):
    """Stop after ``patience`` evaluations in a row that are not better by more than ``min_delta``, in units of what is watched."""

    patience: PositiveInt = 2
    min_delta: NotNegative = 0.0
    metric: Watched | Auto = "auto"


class TrainOptions(Contract):
    """What a user may set. "auto" takes the trainer's own value; lengths are in tokens of the base model."""

    n_epochs: PositiveInt | Auto = "auto"
    batch_size: PositiveInt | Auto = "auto"
    learning_rate: PositiveFloat | Auto = "auto"
    learning_rate_multiplier: PositiveFloat | Auto = "auto"
    lora_r: Annotated[int, Field(ge=1, le=512)] | Auto = "auto"
    lora_alpha: PositiveInt | Auto = "auto"
    max_seq_length: Annotated[int, Field(ge=8)] | Auto = "auto"
    early_stopping: EarlyStopping | None = None
    scheduler: Scheduler | Auto = "auto"
    warmup_steps: Annotated[int, Field(ge=0)] | Auto = "auto"
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] | Auto = "auto"
    weight_decay: NotNegative | Auto = "auto"
    lora_dropout: Share | Auto = "auto"
    target_modules: TargetModules | Literal["all-linear", "auto"] = "auto"
    use_rslora: bool | Auto = "auto"
    max_grad_norm: NotNegative | Auto = "auto"
    label_smoothing: Share | Auto = "auto"

    @model_validator(mode="after")
    def _one_warmup(self) -> TrainOptions:
        if self.warmup_steps != "auto" and self.warmup_ratio != "auto":
            raise ValueError("give `warmup_steps` or `warmup_ratio`, not both")
        return self


class ResolvedOptions(Contract):
    """The options a training ran with: no "auto" left; ``learning_rate`` has the multiplier in it.

    ``warmup_ratio`` is of all steps, and does not count where ``warmup_steps`` is given. ``max_grad_norm`` 0 clips nothing. ``best_by``
    says whose weights are kept where validation rows watch. What has a default here had that value before it could be chosen.
    """

    n_epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    lora_r: PositiveInt
    lora_alpha: PositiveInt
    max_seq_length: PositiveInt
    early_stopping: EarlyStopping | None = None
    scheduler: Scheduler = "linear"
    warmup_steps: int | None = None
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    lora_dropout: float = 0.0
    target_modules: TargetModules | Literal["all-linear"] = "all-linear"
    use_rslora: bool = False
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    best_by: Watched = "loss"
