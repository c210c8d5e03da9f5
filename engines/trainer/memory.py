"""How much fits and how much was used."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch

from engines.trainer.room import MIN_TOKENS, free_ram_bytes, token_bytes

MAX_TOKENS = 16384
SHARE = 0.5
CPU_REFUSAL = "DefaultCPUAllocator: "
"""How torch's allocator for the CPU begins what it says when it gets no memory, in a plain RuntimeError."""


def tokens_that_fit(config: Any, device: torch.device) -> int:
    """Packed tokens one pass may hold in half the free memory."""
    fitting = SHARE * _free_bytes(device) / token_bytes(config)
    return int(min(max(fitting, MIN_TOKENS), MAX_TOKENS))


def peak_memory_bytes() -> int:
    """Highest memory use so far: of the GPU where there is one, else of this process (its resident set)."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def shortage(error: Exception) -> str | None:
    """What to say of an error that means that memory has run out, with sizes; None for any other error."""
    text = str(error).partition("\n")[0]
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and CPU_REFUSAL not in text:
        return None
    said = text.rpartition(CPU_REFUSAL)[2][:300].rstrip(". ") or "an allocation was refused"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    used, free = peak_memory_bytes() / 2**30, _free_bytes(device) / 2**30
    return f"{said}. The trainer had used up to {used:.1f} GiB; {free:.1f} GiB are free now."


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_ram_bytes()
