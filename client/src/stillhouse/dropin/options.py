"""`train_kwargs` in the three dialects that people write (OpenAI's, transformers', dspy's) as our train options."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from typing import Any

NAMES: Mapping[str, str] = {
    **{name: name for name in ("n_epochs", "batch_size", "learning_rate", "learning_rate_multiplier", "early_stopping")},
    **{name: name for name in ("lora_r", "lora_alpha", "max_seq_length")},
    "num_train_epochs": "n_epochs",
    "num_epochs": "n_epochs",
    "epochs": "n_epochs",
    "per_device_train_batch_size": "batch_size",
    "lr": "learning_rate",
    "r": "lora_r",
    "lora_rank": "lora_r",
    "max_length": "max_seq_length",
}
"""What people write, and what it is here."""
WITHOUT_MEANING = frozenset(
    {
        *("output_dir", "device", "use_peft", "bf16", "fp16", "packing", "gradient_accumulation_steps", "logging_steps", "save_steps"),
        *("save_strategy", "eval_strategy", "report_to", "dataloader_num_workers", "gradient_checkpointing", "optim", "num_processes"),
    }
)
"""Words about the machine, which the server decides."""


def train_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Our words for them; those that have no meaning on a server are named in one warning. Raises ValueError for an unknown word."""
    unknown = [name for name in given if name not in NAMES and name not in WITHOUT_MEANING]
    if unknown:
        close = difflib.get_close_matches(unknown[0], [*NAMES, *WITHOUT_MEANING], n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(set(NAMES.values())))}"
        raise ValueError(f"train_kwargs: unknown option {unknown[0]!r}{hint}")
    idle = sorted(name for name in given if name in WITHOUT_MEANING)
    if idle:
        warnings.warn(f"train_kwargs: {', '.join(idle)} have no meaning here: the server decides how it trains", stacklevel=4)
    return {NAMES[name]: value for name, value in given.items() if name in NAMES and value is not None}
