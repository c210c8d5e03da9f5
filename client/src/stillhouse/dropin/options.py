"""`train_kwargs` in the three dialects that people write (OpenAI's, transformers', dspy's) as our train options."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stillhouse._exceptions import APIStatusError
from stillhouse.dropin.lms import named_as_here

NAMES: Mapping[str, str] = {
    # OpenAI's, which are ours
    **{name: name for name in ("n_epochs", "batch_size", "learning_rate_multiplier")},
    **{name: name for name in ("learning_rate", "lora_r", "lora_alpha", "max_seq_length", "early_stopping")},
    # transformers', TRL's and PEFT's; dspy's local provider takes the same
    "num_train_epochs": "n_epochs",
    "per_device_train_batch_size": "batch_size",
    "max_length": "max_seq_length",
    "r": "lora_r",
    **{name: name for name in ("warmup_steps", "warmup_ratio", "weight_decay", "max_grad_norm")},
    **{name: name for name in ("lora_dropout", "target_modules", "use_rslora", "use_dora")},
    "lr_scheduler_type": "scheduler",
    "label_smoothing_factor": "label_smoothing",
    # what people write beside them
    "num_epochs": "n_epochs",
    "epochs": "n_epochs",
    "lr": "learning_rate",
    "lora_rank": "lora_r",
    "scheduler": "scheduler",
    "label_smoothing": "label_smoothing",
    "full_finetuning": "full_finetuning",
}
"""What people write, and what it is here."""
ACCUMULATED = "gradient_accumulation_steps"
"""A batch here is what one step of the optimizer learns from, in however many pieces the trainer takes it."""
WITHOUT_MEANING = frozenset(
    {
        *("output_dir", "overwrite_output_dir", "device", "device_map", "use_peft", "use_cpu", "no_cuda", "bf16", "fp16", "tf32", "optim"),
        *("packing", "gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_compile", "deepspeed", "fsdp", "local_rank"),
        *("logging_dir", "logging_steps", "logging_strategy", "report_to", "run_name", "disable_tqdm", "push_to_hub", "hub_model_id"),
        *("save_steps", "save_strategy", "save_total_limit", "eval_steps", "eval_strategy", "evaluation_strategy"),
        *("per_device_eval_batch_size", "dataloader_num_workers", "dataloader_pin_memory", "dataset_num_proc", "num_processes"),
    }
)
"""Words about the machine and its files, which are the server's."""


def train_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Our words for them; those that have no meaning on a server are named in one warning.

    Raises ValueError for an unknown word, and for two that say one thing.
    """
    for name in given:
        if name not in NAMES and name not in WITHOUT_MEANING and name != ACCUMULATED:
            raise ValueError(f"train_kwargs: unknown option {name!r}{_hint(name)}")
    _warn_of(sorted(name for name in given if name in WITHOUT_MEANING))
    found: dict[str, str] = {}
    for name in given:
        if name in NAMES and given[name] is not None and (other := found.setdefault(NAMES[name], name)) != name:
            raise ValueError(f"train_kwargs: {other!r} and {name!r} are one option; leave one of them out")
    return _accumulated({option: _plain(given[name]) for option, name in found.items()}, given.get(ACCUMULATED))


@contextmanager
def refused_as_given(given: Mapping[Any, Any], body: Mapping[str, Any]) -> Iterator[None]:
    """Raises ValueError for a train option that the server refuses, in the words of `train_kwargs`; for an LM by the LM's name, and for
    a program by the argument that it is."""
    try:
        yield
    except APIStatusError as error:
        before, found, option = (error.param or "").rpartition("train_options.")
        written = next(filter(None, (_written(each, option) for each in (given, *given.values()))), "")
        if not found or not written:
            if (named := named_as_here(str(error), body)) == str(error):
                raise
            raise ValueError(named) from error
        raise ValueError(f"train_kwargs: {str(error).replace(f'{before}{found}{option}', written)}") from error


def _written(given: Any, option: str) -> str:
    """The words that an option was given by; empty if it was not."""
    words = given if isinstance(given, Mapping) else {}
    name = next((name for name in words if isinstance(name, str) and NAMES.get(name) == option and words[name] is not None), "")
    if option == NAMES["batch_size"] and name and _multiply(words[name], words.get(ACCUMULATED)):
        return f"{name} times {ACCUMULATED}"
    return name


def _hint(name: object) -> str:
    close = difflib.get_close_matches(str(name).lower(), [*NAMES, ACCUMULATED], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(set(NAMES.values())))}"


def _warn_of(idle: list[str]) -> None:
    if idle:
        have = "has" if len(idle) == 1 else "have"
        warnings.warn(f"train_kwargs: {', '.join(idle)} {have} no meaning here: the server decides how it trains", stacklevel=5)


def _accumulated(options: dict[str, Any], steps: Any) -> dict[str, Any]:
    size = options.get("batch_size")
    if _multiply(size, steps):
        return {**options, "batch_size": size * steps}
    if steps is not None:
        _warn_of([ACCUMULATED])
    return options


def _plain(value: Any) -> Any:
    """PEFT takes layers as a set, too."""
    return sorted(value) if isinstance(value, (set, frozenset)) else value


def _multiply(size: Any, steps: Any) -> bool:
    return isinstance(size, int) and isinstance(steps, int)
