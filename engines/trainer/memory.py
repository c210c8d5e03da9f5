"""How much fits and how much was used."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Any

import torch

MIN_TOKENS = 512
MAX_TOKENS = 16384
SHARE = 0.5
FLOAT_BYTES = 4
CPU_REFUSAL = "DefaultCPUAllocator: "
"""How torch's allocator for the CPU begins what it says when it gets no memory, in a plain RuntimeError."""


def tokens_that_fit(config: Any, device: torch.device) -> int:
    """Packed tokens one pass may hold: half the free memory, over a rough upper bound of what a token keeps for backward."""
    hidden = config.hidden_size
    intermediate = getattr(config, "intermediate_size", 4 * hidden)
    activations = config.num_hidden_layers * (14 * hidden + 6 * intermediate)
    logits = 3 * config.vocab_size  # at worst every token is a target: logits, probabilities, gradient
    fitting = SHARE * _free_bytes(device) / (FLOAT_BYTES * (activations + logits))
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
    return min(_available_bytes(), _container_bytes())


def _available_bytes() -> int:
    """What the kernel says can be had without swapping; the whole memory where it does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _container_bytes() -> int:
    """What the container's own limit leaves, which /proc/meminfo does not know of."""
    root = Path("/sys/fs/cgroup")
    try:
        return int((root / "memory.max").read_text()) - int((root / "memory.current").read_text())
    except (OSError, ValueError):
        return sys.maxsize
