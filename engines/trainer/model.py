"""The model that is trained: a base model with LoRA matrices on all its linear layers, and its loss over packed rows."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from engines.base_models import BaseModel
from engines.schemas import ResolvedOptions
from engines.schemas.trainer import Dtype
from engines.trainer import fused
from engines.trainer.attention import NAME as SHARED_PREFIX
from engines.trainer.errors import BadInput
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
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=_target_modules(model, options),
        use_rslora=options.use_rslora,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that the latter has renamed
        return get_peft_model(model, config)


def _target_modules(model: Any, options: ResolvedOptions) -> str | list[str]:
    """For PEFT. Raises BadInput for a name that no linear layer has; the one that makes logits has its weights from the embedding."""
    if isinstance(options.target_modules, str):
        return options.target_modules
    head = model.get_output_embeddings()
    linear = {
        name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    }
    if unknown := [name for name in options.target_modules if name not in linear]:
        message = f"The base model has no linear layer {unknown[0]!r} (there are: {', '.join(sorted(linear))})."
        raise BadInput("target_modules_unknown", message, "options.target_modules")
    return list(options.target_modules)


def hold_in_bfloat16(model: Any) -> None:
    """Keep the frozen matrices in bfloat16, not cast again in each step; norms and the residual stream stay float32."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            module.weight.data = module.weight.data.to(torch.bfloat16)
    model.get_input_embeddings().register_forward_hook(lambda _module, _inputs, output: output.float())


@dataclass(frozen=True)
class Targets:
    """Logits (N, vocabulary) of the targets (N) of some rows, row by row; ``counts`` says how many each has."""

    logits: torch.Tensor
    ids: torch.Tensor
    counts: tuple[int, ...]

    def loss(self, smoothing: float = 0.0) -> torch.Tensor:
        """Summed cross-entropy; ``smoothing`` is the share of a target's probability that all tokens have in common."""
        return cross_entropy(self.logits.float(), self.ids, reduction="sum", label_smoothing=smoothing)

    def exact_matches(self) -> int:
        """Rows whose every target is the likeliest token after the right ones before it."""
        right = torch.split(self.logits.argmax(-1) == self.ids, list(self.counts))
        return sum(bool(row.all()) for row in right)


def pass_targets(model: Any, one: Pass, dtype: Dtype) -> Targets:
    """Of one pass; logits are made at the needed places only."""
    with torch.autocast(one.input_ids.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        output = model(
            input_ids=one.input_ids, position_ids=one.position_ids, layout=one.layout, logits_to_keep=one.places, use_cache=False
        )
    return Targets(output.logits[0], one.targets, tuple(row.n_targets for row in one.rows))


def plain_targets(model: Any, rows: Sequence[EncodedRow], dtype: Dtype, device: torch.device) -> Targets:
    """The same computed as usual: rows padded to one length, logits at every place. For comparison."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows], device=device)
    wanted = torch.zeros_like(ids, dtype=torch.bool)
    for number, row in enumerate(rows):
        wanted[number, row.prompt_length : len(row.ids)] = True
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return Targets(logits[:, :-1][wanted[:, 1:]], ids[wanted], tuple(row.n_targets for row in rows))


def make_fast(model: Any, rows: Sequence[tuple[int, EncodedRow]], dtype: Dtype, device: torch.device) -> bool:
    """Switch ``model`` to shared prefixes and fused layers if its loss on ``rows`` stays that of the plain step; say whether.

    A model whose attention is not plain (a sliding window, soft caps) fails the proof and is trained with padded rows.
    """
    original = model.config._attn_implementation
    model.eval()  # dropout would make any two passes differ
    with torch.no_grad():
        expected = plain_targets(model, [row for _, row in rows], dtype, device).loss().item()
        try:
            model.get_base_model().set_attn_implementation(SHARED_PREFIX)
            fused.install(model, getattr(torch, dtype))
            batch = Collator(1 << 30)(rows).to(device)
            got = sum(pass_targets(model, one, dtype).loss().item() for one in batch.passes)
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
