"""What the processes of the local trainer get to know of us."""

from __future__ import annotations

from collections.abc import Mapping

# What a trainer may know of us: where things are, how much machine it gets. Never keys or addresses of our own stores.
PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "STILLHOUSE_HOME",
    "STILLHOUSE_CACHE",
    "XDG_CACHE_HOME",
    "STILLHOUSE_MODELS",
    "STILLHOUSE_ALLOW_HUB",
    "STILLHOUSE_HUB_REVISIONS",
    "HF_HOME",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
)


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of ``environment`` that a trainer gets: a fixed list of names, none of which holds a secret."""
    ours = {"PYTHONUNBUFFERED": "1", "STILLHOUSE_DIE_WITH_PARENT": "1"}
    return {name: environment[name] for name in PASSED_ON if name in environment} | ours
