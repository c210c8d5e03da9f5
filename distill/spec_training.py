"""How a LoRA adapter is trained: the options of a job, an LM or a fine-tuning job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from distill.spec_part import Auto, NotNegative, Positive, PositiveFloat, SpecPart

Share = Annotated[float, Field(ge=0, lt=1)]
LayerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,100}$")]


def _is_auto(given: object) -> bool:
    return given == "auto"


class EarlyStopping(SpecPart):
    """Stop when `patience` evaluations in a row are not better by more than `min_delta`. `metric` is the loss of the validation rows, or
    `exact_match`: the share of them whose every answer token is the likeliest after the right ones before it. `auto` takes that for labels.
    The metric of the job is not run while it trains."""

    patience: Positive = 2
    min_delta: NotNegative = 0.0
    metric: Literal["loss", "exact_match"] | Auto = Field(default="auto", exclude_if=_is_auto)


class TrainOptions(SpecPart):
    """How a LoRA adapter is trained. `"auto"` is decided by the trainer from the rows and the base model; what is given counts.

    `max_grad_norm` 0 clips nothing. `use_dora` and `full_finetuning` are known, so that they are refused where a trainer has none.
    """

    n_epochs: Positive | Auto = "auto"
    batch_size: Positive | Auto = "auto"
    learning_rate: PositiveFloat | Auto = "auto"
    learning_rate_multiplier: PositiveFloat | Auto = "auto"
    lora_r: Positive | Auto = "auto"
    lora_alpha: PositiveFloat | Auto = "auto"
    max_seq_length: Positive | Auto = "auto"
    early_stopping: EarlyStopping | None = None
    # Those below came later: left out of digests where they are not given.
    scheduler: Literal["linear", "cosine", "constant"] | Auto = Field(default="auto", exclude_if=_is_auto)
    warmup_steps: Annotated[int, Field(ge=0)] | Auto = Field(default="auto", exclude_if=_is_auto)
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] | Auto = Field(default="auto", exclude_if=_is_auto)
    weight_decay: NotNegative | Auto = Field(default="auto", exclude_if=_is_auto)
    lora_dropout: Share | Auto = Field(default="auto", exclude_if=_is_auto)
    target_modules: Annotated[tuple[LayerName, ...], Field(min_length=1, max_length=50)] | Literal["all-linear", "auto"] = Field(
        default="auto", exclude_if=_is_auto
    )
    use_rslora: bool | Auto = Field(default="auto", exclude_if=_is_auto)
    max_grad_norm: NotNegative | Auto = Field(default="auto", exclude_if=_is_auto)
    label_smoothing: Share | Auto = Field(default="auto", exclude_if=_is_auto)
    use_dora: bool = Field(default=False, exclude_if=lambda given: not given)
    full_finetuning: bool = Field(default=False, exclude_if=lambda given: not given)

    @model_validator(mode="after")
    def _one_warmup(self) -> TrainOptions:
        if self.warmup_steps != "auto" and self.warmup_ratio != "auto":
            raise PydanticCustomError("warmup", "give `warmup_steps` or `warmup_ratio`, not both")
        return self

    @property
    def given(self) -> frozenset[str]:
        """The names of those that are not left to the trainer."""
        return frozenset(name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default)
