"""What processes that somebody else starts for an engine do first. Pure standard library: they hear SIGTERM before they import anything."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def die_with_parent() -> bool:
    """On Linux, where STILLHOUSE_DIE_WITH_PARENT is 1: SIGTERM when the thread that started us ends. True when it has ended already."""
    if os.environ.get("STILLHOUSE_DIE_WITH_PARENT") != "1" or not sys.platform.startswith("linux"):
        return False
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    return os.getppid() != parent


def quiet_libraries() -> None:
    """No progress bars in the log, no calls home, and no threads that a tokenizer keeps for itself; before they are imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if os.environ.get("STILLHOUSE_ALLOW_HUB") != "1":
        os.environ["HF_HUB_OFFLINE"] = "1"
