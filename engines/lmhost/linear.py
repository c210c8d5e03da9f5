"""Matrix products: the plain torch kernel or oneDNN with the weight packed once, and the choice of dtype by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Product = Callable[[Tensor], Tensor]
PROBE_SECONDS = 0.05
PROBE_ROWS = (16, 256)
# bfloat16 rounds; take it only where it is clearly faster.
BFLOAT16_GAIN = 1.3


@dataclass(frozen=True)
class Kernel:
    """How weights are held: ``dtype``, and whether oneDNN packs them (CPU only)."""

    dtype: torch.dtype
    packed: bool

    def product(self, weight: Tensor, bias: Tensor | None) -> Product:
        """``x [T, in] -> [T, out]`` for a weight ``[out, in]``."""
        weight = weight.to(self.dtype).contiguous()
        bias = None if bias is None else bias.to(self.dtype)
        return _packed(weight, bias) if self.packed else _plain(weight, bias)


def _plain(weight: Tensor, bias: Tensor | None) -> Product:
    def product(x: Tensor) -> Tensor:
        return F.linear(x, weight, bias)

    return product


def _packed(weight: Tensor, bias: Tensor | None) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    linear = torch.ops.mkldnn._linear_pointwise.default

    def product(x: Tensor) -> Tensor:
        result: Tensor = linear(x, packed, bias, "none", [], "")
        return result

    return product


def choose_kernel(name: str, device: torch.device, hidden: int, inner: int) -> Kernel:
    """The kernel for ``--dtype name``: "float32", "bfloat16", or "auto", which measures both at the model's own shapes."""
    dtypes = {"float32": [torch.float32], "bfloat16": [torch.bfloat16], "auto": [torch.float32, torch.bfloat16]}[name]
    if device.type != "cpu":
        return Kernel(torch.float32 if name == "float32" else torch.bfloat16, packed=False)
    packs = [False, True] if _can_pack() else [False]
    seconds = {Kernel(dtype, packed): _probe(Kernel(dtype, packed), hidden, inner) for dtype in dtypes for packed in packs}
    return min(seconds, key=lambda kernel: seconds[kernel] * (BFLOAT16_GAIN if kernel.dtype == torch.bfloat16 else 1.0))


def _can_pack() -> bool:
    try:
        _packed(torch.ones(16, 16), None)(torch.ones(1, 16))
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    return True


@torch.inference_mode()
def _probe(kernel: Kernel, hidden: int, inner: int) -> float:
    """Best seconds for one small and one large product; several weights, so that none stays in the core's cache."""
    products = [kernel.product(torch.randn(inner, hidden), None) for _ in range(8)]
    return sum(_best_of(products, torch.randn(rows, hidden, dtype=kernel.dtype)) for rows in PROBE_ROWS)


def _best_of(products: list[Product], x: Tensor) -> float:
    best, end = float("inf"), time.perf_counter() + PROBE_SECONDS
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        for product in products:
            product(x)
        best = min(best, time.perf_counter() - start)
    return best
