"""LoRA adapters: read from PEFT's files, checked, and added unmerged to a batch in contiguous slices.

Rows of a batch are sorted by LoRA adapter. The base product runs once for all rows; each adapter's two small products run on its
own slice. Projections that are fused in the base weight are fused here too: their A matrices are stacked, their B matrices
lie on a block diagonal.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from engines.lmhost.errors import HostError, bad_request

if TYPE_CHECKING:
    from engines.lmhost.model import ModelShape

FUSED = {"qkv": ("q_proj", "k_proj", "v_proj"), "o": ("o_proj",), "gate_up": ("gate_proj", "up_proj"), "down": ("down_proj",)}
_PLACE = {name: "self_attn" if name[0] in "qkvo" else "mlp" for names in FUSED.values() for name in names}
_REFUSED_OPTIONS = (
    "use_dora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "lora_bias",
    "trainable_token_indices",
)
_uids = itertools.count(1)


@dataclass(frozen=True)
class Pair:
    """One fused projection's change: ``down [in, r]`` and ``up [r, out]``, the scale already in ``up``."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class LoraAdapter:
    """A loaded LoRA adapter. ``uid`` is new for every load: caches are keyed by it, so a reload never meets old entries."""

    name: str
    uid: int
    digest: str
    layers: tuple[dict[str, Pair], ...]


@dataclass(frozen=True)
class LoraSlice:
    """The tokens ``start:stop`` of a packed batch that belong to ``adapter``."""

    adapter: LoraAdapter
    start: int
    stop: int


def add_lora(y: Tensor, x: Tensor, slices: list[LoraSlice], layer: int, name: str) -> Tensor:
    """Add each adapter's change of projection ``name`` to its slice of ``y`` (in place); returns ``y``."""
    for part in slices:
        pair = part.adapter.layers[layer].get(name)
        if pair is not None:
            y[part.start : part.stop].addmm_(x[part.start : part.stop] @ pair.down, pair.up)
    return y


def load_lora(name: str, folder: Path, shape: ModelShape, base_digest: str, dtype: torch.dtype, device: torch.device) -> LoraAdapter:
    """Read a PEFT folder. Raises HostError: 404 without the folder, 400 for another base, other shapes or unsupported options."""
    config = _read_config(folder)
    _check_config(config, base_digest)
    weights_file = folder / "adapter_model.safetensors"
    tensors = _read_tensors(weights_file)
    matrices = {_short_name(key): value for key, value in tensors.items()}
    layers = [_layer(matrices, index, shape, config) for index in range(shape.layers)]
    if matrices:
        raise bad_request(
            f"The LoRA adapter changes {sorted(matrices)[0]!r}, which this host does not support.", "lora_path", "unsupported_lora"
        )
    with weights_file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    cast = tuple({key: Pair(_cast(p.down, dtype, device), _cast(p.up, dtype, device)) for key, p in layer.items()} for layer in layers)
    return LoraAdapter(name, next(_uids), f"sha256:{digest}", cast)


def _cast(matrix: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    return matrix.to(device, dtype).contiguous()


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    if not file.is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise HostError(404, "lora_path_not_found", "lora_path holds no adapter_config.json with adapter_model.safetensors.", "lora_path")
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise bad_request(f"adapter_config.json is not JSON: {error}", "lora_path", "bad_lora") from error
    if not isinstance(config, dict):
        raise bad_request("adapter_config.json is not an object.", "lora_path", "bad_lora")
    return config


def _check_config(config: dict[str, Any], base_digest: str) -> None:
    theirs = config.get("base_model_digest")
    if theirs is not None and theirs != base_digest:
        message = f"The LoRA adapter was trained on base model {theirs}; this host serves {base_digest}."
        raise bad_request(message, "lora_path", "wrong_base_model")
    if config.get("peft_type") != "LORA":
        raise bad_request(f"peft_type is {config.get('peft_type')!r}; only LORA is supported.", "lora_path", "unsupported_lora")
    used = [option for option in _REFUSED_OPTIONS if config.get(option)]
    if used or config.get("bias", "none") != "none":
        raise bad_request(f"Unsupported LoRA options: {', '.join(used or ['bias'])}.", "lora_path", "unsupported_lora")


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise bad_request(f"adapter_model.safetensors cannot be read: {error}", "lora_path", "bad_lora") from error


def _short_name(key: str) -> str:
    """``base_model.model.model.layers.3.mlp.up_proj.lora_A.weight`` → ``3.mlp.up_proj.lora_A``; other names stay whole."""
    _, found, tail = key.partition(".layers.")
    return tail.removesuffix(".weight") if found else key


def _layer(matrices: dict[str, Tensor], index: int, shape: ModelShape, config: dict[str, Any]) -> dict[str, Pair]:
    """Take the matrices of one layer out of ``matrices`` and fuse them."""
    layer: dict[str, Pair] = {}
    for fused, names in FUSED.items():
        pairs = {name: pair for name in names if (pair := _pair(matrices, index, name, shape, config)) is not None}
        if pairs:
            layer[fused] = _fuse(pairs, names, shape)
    return layer


def _pair(matrices: dict[str, Tensor], index: int, name: str, shape: ModelShape, config: dict[str, Any]) -> Pair | None:
    stem = f"{index}.{_PLACE[name]}.{name}"
    down, up = matrices.pop(f"{stem}.lora_A", None), matrices.pop(f"{stem}.lora_B", None)
    if down is None and up is None:
        return None
    out, inner = shape.widths[name]
    if down is None or up is None or down.shape[1:] != (inner,) or up.shape != (out, down.shape[0]):
        raise bad_request(f"The LoRA adapter's shapes at layer {index}, {name}, do not fit the base model.", "lora_path", "wrong_shape")
    return Pair(down.float().T, up.float().T * _scale(config, down.shape[0]))


def _scale(config: dict[str, Any], rank: int) -> float:
    alpha = float(config.get("lora_alpha") or rank)
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _fuse(pairs: dict[str, Pair], names: tuple[str, ...], shape: ModelShape) -> Pair:
    down = torch.cat([pair.down for pair in pairs.values()], dim=1)
    up = torch.zeros(down.shape[1], sum(shape.widths[name][0] for name in names))
    row = column = 0
    for name in names:
        width = shape.widths[name][0]
        if name in pairs:
            rank = pairs[name].up.shape[0]
            up[row : row + rank, column : column + width] = pairs[name].up
            row += rank
        column += width
    return Pair(down, up)
