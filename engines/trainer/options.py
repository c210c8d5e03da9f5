"""What "auto" means: the values that trained well in our measurements on chat rows with few hundred to few thousand rows."""

from __future__ import annotations

from typing import Literal, TypeVar

from engines.schemas import ResolvedOptions, TrainOptions

N = TypeVar("N", int, float)

LEARNING_RATE = 1e-3
LORA_R = 16
BATCH_SIZE = 16
MAX_SEQ_LENGTH = 4096
FEW_ROWS = 200


def resolve_options(options: TrainOptions, n_rows: int, context_length: int) -> ResolvedOptions:
    """Fill in every "auto" for ``n_rows`` training rows and a base model that sees ``context_length`` tokens."""
    rank = _or(options.lora_r, LORA_R)
    return ResolvedOptions(
        n_epochs=_or(options.n_epochs, 3 if n_rows < FEW_ROWS else 2),
        batch_size=min(_or(options.batch_size, BATCH_SIZE), n_rows),
        learning_rate=_or(options.learning_rate, LEARNING_RATE) * _or(options.learning_rate_multiplier, 1.0),
        lora_r=rank,
        lora_alpha=_or(options.lora_alpha, 2 * rank),
        max_seq_length=min(_or(options.max_seq_length, MAX_SEQ_LENGTH), context_length),
        early_stopping=options.early_stopping,
    )


def _or(value: N | Literal["auto"], automatic: N) -> N:
    return automatic if isinstance(value, str) else value
