"""The files of a work folder and the folders with LoRA weights, written so that a reader never sees half of one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def write_json(path: Path, content: BaseModel | dict[str, Any]) -> None:
    """Write JSON beside ``path`` and rename it into place."""
    text = content.model_dump_json() if isinstance(content, BaseModel) else json.dumps(content)
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_text(text + "\n", encoding="utf-8")
    os.replace(scratch, path)


@contextmanager
def folder_in_place(target: Path) -> Iterator[Path]:
    """A scratch folder that becomes ``target`` (replacing it) if the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def save_lora(model: Any, folder: Path, base_model: str, base_model_digest: str) -> None:
    """Write the LoRA adapter in PEFT's format, float32, tied to its base model by id and digest and by no path."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    # save_embedding_layers: "auto" would ask the hub for the base model's vocabulary size.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in state.items()}
    save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})
    write_json(folder / CONFIG, _lora_config(model, base_model, base_model_digest))


def load_lora(model: Any, folder: Path) -> None:
    """Put the weights that ``save_lora`` wrote back into ``model``."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    left = set_peft_model_state_dict(model, load_file(str(folder / WEIGHTS)))
    if left.unexpected_keys:
        raise ValueError(f"{WEIGHTS} holds weights that are not of this model: {left.unexpected_keys[0]}")


def _lora_config(model: Any, base_model: str, base_model_digest: str) -> dict[str, Any]:
    config: dict[str, Any] = dict(model.peft_config["default"].to_dict())
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    # PEFT spells out every layer; the leaf names mean the same and are what other LM hosts expect.
    leaves = sorted({name.rsplit(".", 1)[-1] for name in config["target_modules"]})
    return config | {
        "target_modules": leaves,
        "base_model_name_or_path": base_model,
        "base_model_digest": base_model_digest,
        "inference_mode": True,
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
    }
