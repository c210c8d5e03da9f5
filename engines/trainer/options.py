"""What "auto" means: options by the number of rows and by whether their answers are labels. Each has its experiment in decision 0089."""

from __future__ import annotations

import math
from typing import Literal, TypeVar

from engines.schemas import EarlyStopping, ResolvedOptions, TrainOptions
from engines.schemas.options import ALL_LINEAR, Watched
from engines.trainer.facts import RowFacts

N = TypeVar("N", int, float)

LEARNING_RATE = 1e-3
LORA_R = 16
BATCH_SIZE = 16
SMALL_BATCH_SIZE = 8
"""Below `MANY_ROWS` steps are scarcer than time."""
MANY_ROWS = 1000
FEWEST_STEPS = 120
"""With fewer, a rare label is not learned at all."""
MOST_EPOCHS = 12
MOST_EPOCHS_OF_TEXTS = 4
"""Of answers that do not repeat, which are learned by heart when they are shown often."""
ENOUGH_STEPS = 600
"""In one epoch, from which on there is no second one."""
MAX_SEQ_LENGTH = 4096
WARMUP_RATIO = 0.05


def resolve_options(options: TrainOptions, facts: RowFacts, context_length: int) -> ResolvedOptions:
    """Fill in every "auto" for the training rows and a base model that sees ``context_length`` tokens."""
    rank = _or(options.lora_r, LORA_R)
    batch_size = min(_or(options.batch_size, SMALL_BATCH_SIZE if facts.rows < MANY_ROWS else BATCH_SIZE), facts.rows)
    watched = _watched(options.early_stopping, facts)
    return ResolvedOptions(
        n_epochs=_or(options.n_epochs, _epochs(facts, math.ceil(facts.rows / batch_size))),
        batch_size=batch_size,
        learning_rate=_or(options.learning_rate, LEARNING_RATE) * _or(options.learning_rate_multiplier, 1.0),
        lora_r=rank,
        lora_alpha=_or(options.lora_alpha, 2 * rank),
        max_seq_length=longest_row(options, context_length),
        early_stopping=options.early_stopping and options.early_stopping.model_copy(update={"metric": watched}),
        scheduler="linear" if options.scheduler == "auto" else options.scheduler,
        warmup_steps=None if options.warmup_steps == "auto" else options.warmup_steps,
        warmup_ratio=_or(options.warmup_ratio, WARMUP_RATIO),
        weight_decay=_or(options.weight_decay, 0.0),
        lora_dropout=_or(options.lora_dropout, 0.0),
        target_modules=ALL_LINEAR if options.target_modules == "auto" else options.target_modules,
        use_rslora=options.use_rslora is True,
        max_grad_norm=_or(options.max_grad_norm, 1.0),
        label_smoothing=_or(options.label_smoothing, 0.0),
        best_by=watched,
    )


def longest_row(options: TrainOptions, context_length: int) -> int:
    """The most tokens that a row may have."""
    return min(_or(options.max_seq_length, MAX_SEQ_LENGTH), context_length)


def _epochs(facts: RowFacts, steps: int) -> int:
    """As many as give `FEWEST_STEPS` of ``steps`` each, within bounds."""
    if steps >= ENOUGH_STEPS:
        return 1
    most = MOST_EPOCHS if facts.has_labels else MOST_EPOCHS_OF_TEXTS
    return min(max(math.ceil(FEWEST_STEPS / steps), 2), most)


def _watched(early_stopping: EarlyStopping | None, facts: RowFacts) -> Watched:
    if early_stopping is None or early_stopping.metric == "auto":
        return "exact_match" if facts.has_labels else "loss"
    return early_stopping.metric


def _or(value: N | Literal["auto"], automatic: N) -> N:
    return automatic if isinstance(value, str) else value
