"""How much memory a training needs, and how much is free: known before torch is imported, unless there may be a GPU.

``python -m engines.trainer.room BASE_MODEL LONGEST_ROW_TOKENS`` prints how many ``parameters`` the base model has, and of the ``device``
that would train it (``cuda`` or ``cpu``) the bytes ``needed``, ``free`` and in ``total``.
"""

from __future__ import annotations

import json
import math
import os
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engines.base_models import BaseModelError, resolve
from engines.process import quiet_libraries

MIN_TOKENS = 512
"""Packed tokens that one pass has at least."""
FLOAT_BYTES = 4
PROCESS_BYTES = 2**30
"""torch and its kernels, LoRA weights with their gradients and Adam's moments."""
HOST_GROWTH_BYTES = 2 * 2**30
"""What an LM host beside it may still take: its prefix cache and the keys and values of running rows."""


def needed_bytes(folder: Path, longest_tokens: int) -> int:
    """Memory that a training of the base model in ``folder`` takes at most beside a running LM host."""
    config = SimpleNamespace(**json.loads((folder / "config.json").read_text()))
    weights = FLOAT_BYTES * parameters(folder)
    return weights + max(longest_tokens, MIN_TOKENS) * token_bytes(config) + PROCESS_BYTES + HOST_GROWTH_BYTES


def parameters(folder: Path) -> int:
    """Numbers in the weights of the base model in ``folder``."""
    return sum(_parameters(file) for file in folder.glob("*.safetensors"))


def token_bytes(config: Any) -> int:
    """A rough upper bound of what one token keeps for the backward pass."""
    hidden = config.hidden_size
    intermediate = getattr(config, "intermediate_size", 4 * hidden)
    activations = config.num_hidden_layers * (14 * hidden + 6 * intermediate)
    logits = 3 * config.vocab_size  # at worst every token is a target: logits, probabilities, gradient
    return int(FLOAT_BYTES * (activations + logits))


def free_ram_bytes() -> int:
    """What this process could still allocate without swapping."""
    return min(_available_bytes(), _container_bytes())


def _parameters(file: Path) -> int:
    """Numbers in a safetensors file, by its header."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _device() -> dict[str, Any]:
    """Its kind, and its memory in bytes."""
    if not version("torch").endswith("+cpu"):
        import torch

        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            return {"device": "cuda", "free": int(free), "total": int(total)}
    return {"device": "cpu", "free": free_ram_bytes(), "total": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}


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


def main(name: str, longest_tokens: str) -> int:
    """Exit status 2, and a line on stderr, for a base model that cannot be used."""
    try:
        folder = resolve(name).folder()
        model = {"parameters": parameters(folder), "needed": needed_bytes(folder, int(longest_tokens))}
        print(json.dumps({**model, **_device()}))
    except (BaseModelError, OSError, KeyError, ValueError, AttributeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    quiet_libraries()
    sys.exit(main(*sys.argv[1:]))
