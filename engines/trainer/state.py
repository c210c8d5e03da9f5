"""Where a training stands beside its weights: optimizer, schedule and random numbers, as safetensors and JSON.

What transformers writes for them are pickles, which run code when they are read; none is written here, and none read.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.trainer.files import write_json

TENSORS = "state.safetensors"
VALUES = "state.json"


def save_state(folder: Path, optimizer: Any, scheduler: Any) -> None:
    """Write everything that the next training step depends on and that is neither weights nor data."""
    from safetensors.torch import save_file

    state = optimizer.state_dict()
    tensors = {f"optimizer.{number}.{name}": value for number, entry in state["state"].items() for name, value in entry.items()}
    tensors["random.cpu"] = torch.random.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.random.get_rng_state()
    save_file({name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}, str(folder / TENSORS))
    values = {
        "optimizer_groups": state["param_groups"],
        "scheduler": scheduler.state_dict(),
        "python": random.getstate(),
        "numpy": _numpy_state(),
    }
    write_json(folder / VALUES, values)


def load_optimizer(folder: Path, optimizer: Any, scheduler: Any) -> None:
    """Put optimizer and schedule back to where they stood."""
    from safetensors.torch import load_file

    values = _values(folder)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in load_file(str(folder / TENSORS)).items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            number, _, entry = rest.partition(".")
            state.setdefault(int(number), {})[entry] = value
    groups = [{name: tuple(value) if name == "betas" else value for name, value in group.items()} for group in values["optimizer_groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    scheduler.load_state_dict(values["scheduler"])


def load_random(folder: Path) -> None:
    """Put the random numbers back to where they stood."""
    from safetensors.torch import load_file

    values, tensors = _values(folder), load_file(str(folder / TENSORS))
    version, numbers, gauss = values["python"]
    random.setstate((version, tuple(numbers), gauss))
    numbers = values["numpy"]
    np.random.set_state({**numbers, "state": {**numbers["state"], "key": np.array(numbers["state"]["key"], dtype=np.uint32)}})
    torch.random.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.random.set_rng_state(tensors["random.cuda"])


def _numpy_state() -> dict[str, Any]:
    whole = dict(np.random.get_state(legacy=False))
    return {**whole, "state": {**whole["state"], "key": whole["state"]["key"].tolist()}}


def _values(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / VALUES).read_text(encoding="utf-8"))
    return values
