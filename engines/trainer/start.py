"""The LoRA adapter that a training begins with, where it does not begin with new weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.base_models import BaseModel
from engines.schemas import TrainOptions
from engines.trainer.errors import BadInput
from engines.trainer.files import CONFIG, WEIGHTS

PARAM = "start_from"
KEPT = {"lora_r": "r", "lora_alpha": "lora_alpha"}
"""Options of a training that such an adapter has settled, by their names in its own configuration."""


def options_of_start(folder: Path, base: BaseModel, options: TrainOptions) -> TrainOptions:
    """``options`` with the adapter's rank and scale, and its layers at least.

    Raises BadInput where other ones are asked for, or the base model is another.
    """
    return kept_options(_read(folder), base, options)


def kept_options(config: Mapping[str, Any], base: BaseModel, options: TrainOptions) -> TrainOptions:
    """The same, by the configuration of the adapter."""
    if config.get("base_model_digest") != base.digest:
        message = f"The model that this training starts from was trained on other weights than {base.id} has now."
        raise BadInput("start_of_another_base_model", message, PARAM)
    own = {option: config.get(name) for option, name in KEPT.items()} | {"use_rslora": bool(config.get("use_rslora"))}
    for option, value in own.items():
        asked = getattr(options, option)
        if asked not in ("auto", value):
            raise _differs(option, value, asked)
    layers = tuple(config["target_modules"])
    asked = options.target_modules
    if not isinstance(asked, str) and not set(layers) <= set(asked):
        raise _differs("target_modules", ", ".join(layers), ", ".join(asked))
    return TrainOptions.model_validate({**options.model_dump(), **own, "target_modules": layers if asked == "auto" else asked})


def _differs(option: str, value: object, asked: object) -> BadInput:
    return BadInput("lora_differs", f"The model that this training starts from has {option} {value}, not {asked}.", f"options.{option}")


def _read(folder: Path) -> dict[str, Any]:
    try:
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(WEIGHTS)
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"The model that this training starts from cannot be read: {type(error).__name__}."
        raise BadInput("start_unreadable", message, PARAM) from error
    return config
