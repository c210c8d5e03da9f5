"""The model that is trained: a base model with LoRA matrices on all its linear layers, and its loss over packed rows."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from engines.base_models import BaseModel
from engines.schemas import ResolvedOptions
from engines.schemas.trainer import Dtype
from engines.trainer import fused
from engines.trainer.attention import NAME as SHARED_PREFIX
from engines.trainer.packing import Collator, Pass
from engines.trainer.rows import EncodedRow

logger = logging.getLogger(__name__)

# How far the shared step's loss may lie from the plain step's, relatively, before sharing is given up.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


def with_lora(base: BaseModel, options: ResolvedOptions, dtype: Dtype) -> Any:
    """A PEFT model over ``base``; only the LoRA matrices take gradients, and they stay float32."""
    from peft import LoraConfig, get_peft_model

    model: Any = base.load_model()
    model.config._name_or_path = model.name_or_path = base.id
    model.config.use_cache = False
    if dtype == "bfloat16":
        hold_in_bfloat16(model)
    config = LoraConfig(
        r=options.lora_r, lora_alpha=options.lora_alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that the latter has renamed
        return get_peft_model(model, config)


def hold_in_bfloat16(model: Any) -> None:
    """Keep the frozen matrices in bfloat16, not cast again in each step; norms and the residual stream stay float32."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            module.weight.data = module.weight.data.to(torch.bfloat16)
    model.get_input_embeddings().register_forward_hook(lambda _module, _inputs, output: output.float())


def pass_loss(model: Any, one: Pass, dtype: Dtype) -> torch.Tensor:
    """Summed cross-entropy over the targets of one pass; logits are made at the needed places only."""
    with torch.autocast(one.input_ids.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        output = model(
            input_ids=one.input_ids, position_ids=one.position_ids, layout=one.layout, logits_to_keep=one.places, use_cache=False
        )
    return cross_entropy(output.logits[0].float(), one.targets, reduction="sum")


def plain_loss(model: Any, rows: Sequence[EncodedRow], dtype: Dtype, device: torch.device) -> torch.Tensor:
    """The same sum computed as usual: rows padded to one length, logits at every place. For comparison."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows], device=device)
    labels = torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        labels[number, row.prompt_length : len(row.ids)] = ids[number, row.prompt_length : len(row.ids)]
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")


def make_fast(model: Any, rows: Sequence[tuple[int, EncodedRow]], dtype: Dtype, device: torch.device) -> bool:
    """Switch ``model`` to shared prefixes and fused layers if its loss on ``rows`` stays that of the plain step; say whether.

    A model whose attention is not plain (a sliding window, soft caps) fails the proof and is trained with padded rows.
    """
    original = model.config._attn_implementation
    with torch.no_grad():
        expected = plain_loss(model, [row for _, row in rows], dtype, device).item()
        try:
            model.get_base_model().set_attn_implementation(SHARED_PREFIX)
            fused.install(model, getattr(torch, dtype))
            batch = Collator(1 << 30)(rows).to(device)
            got = sum(pass_loss(model, one, dtype).item() for one in batch.passes)
        except (TypeError, ValueError, RuntimeError) as error:
            logger.warning("shared prefixes are not possible with this model: %s", error)
            got = float("nan")
    if abs(got - expected) <= TOLERANCE[dtype] * abs(expected):
        return True
    logger.warning("loss with shared prefixes is %s, without %s: training on padded rows", got, expected)
    make_plain(model, original)
    return False


def make_plain(model: Any, attention: str = "sdpa") -> None:
    """Undo ``make_fast``."""
    fused.remove(model)
    model.get_base_model().set_attn_implementation(attention)
