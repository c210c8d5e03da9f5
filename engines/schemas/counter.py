"""What the token counter and the resolver read and answer, one JSON object a line. Pure pydantic: no torch."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from engines.schemas.options import Auto, Contract, PositiveInt, TrainOptions
from engines.schemas.trainer import TrainerError


class CountRequest(Contract):
    """Count ``rows`` (TrainingRow each) as a training of ``base_model`` would; without rows it only says how long one may be."""

    base_model: str
    max_seq_length: PositiveInt | Auto = "auto"
    rows: list[dict[str, Any]] = Field(default_factory=list)


class RowCount(Contract):
    """Tokens of one row as it is trained on; ``fault`` says why it cannot be."""

    prompt: int = 0
    completion: int = 0
    fault: str | None = None


class CountReply(Contract):
    """``rows`` in the request's order; ``longest`` is the most tokens a row may have. With ``error`` nothing was counted."""

    longest: int = 0
    rows: list[RowCount] = Field(default_factory=list)
    error: TrainerError | None = None


class ResolveRequest(Contract):
    """Which options a training of ``base_model`` on rows that follow would run with. ``start`` is the configuration of the LoRA adapter
    that it begins with, where it begins with one."""

    base_model: str
    options: TrainOptions = TrainOptions()
    start: dict[str, Any] | None = None
