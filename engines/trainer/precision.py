"""float32 or bfloat16: which one multiplies faster here. The two trade places between CPUs, so it is measured."""

from __future__ import annotations

import time

import torch
from torch.nn.functional import linear

from engines.schemas.trainer import Dtype

TOKENS = 1024
ROUNDS = 3
# float32 is exact and as good as free where the difference is small.
CLEARLY_FASTER = 1.2


def choose_dtype(hidden: int, intermediate: int, device: torch.device) -> Dtype:
    """The dtype for matrix products of (1024, hidden) by (hidden, intermediate), by the best of three interleaved rounds."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    seconds = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for number in range(ROUNDS + 1):
        for dtype in seconds:
            elapsed = _time_product(hidden, intermediate, dtype, device)
            if number:  # the first round warms up
                seconds[dtype] = min(seconds[dtype], elapsed)
    return "bfloat16" if seconds[torch.float32] > CLEARLY_FASTER * seconds[torch.bfloat16] else "float32"


def _time_product(hidden: int, intermediate: int, dtype: torch.dtype, device: torch.device) -> float:
    inputs = torch.zeros(TOKENS, hidden, dtype=dtype, device=device)
    weight = torch.zeros(intermediate, hidden, dtype=dtype, device=device)
    start = time.perf_counter()
    linear(linear(inputs, weight), weight.t())
    return time.perf_counter() - start
