"""Named points at which a test can make this process die as if by `kill -9`. Without the variable they cost one dictionary look-up.

`STILLHOUSE_CRASH_AT="bootstrap.flushed:3"` kills the process the third time it passes that point; several points stand between commas.
A marker file in `STILLHOUSE_CRASH_MARKERS` (a folder) makes each happen once, also across restarts. A marker that a test makes itself
keeps its point quiet until the test removes it.
"""

import os
import signal
import threading
from collections import Counter
from pathlib import Path

POINTS = frozenset(
    {f"{step}.{moment}" for step in ("validate", "assemble", "package") for moment in ("before_publish", "after_publish")}
    | {f"{step}.{moment}" for step in ("bootstrap", "evaluate") for moment in ("mid_work", "flushed", "before_publish", "after_publish")}
    | {f"prepare.{moment}" for moment in ("mid_work", "before_publish", "after_publish")}
    | {f"train.{moment}" for moment in ("leased_device", "mid_work", "before_publish", "after_publish")}
)

_passed: Counter[str] = Counter()
_lock = threading.Lock()


def crash_point(name: str) -> None:
    """Die here if the environment says so."""
    wanted = os.environ.get("STILLHOUSE_CRASH_AT")
    if wanted is None:
        return
    for each in wanted.split(","):
        point, _, count = each.partition(":")
        if point == name and _passes(name) >= int(count or 1) and _first_time(name):
            os.kill(os.getpid(), signal.SIGKILL)


def _passes(name: str) -> int:
    with _lock:
        _passed[name] += 1
        return _passed[name]


def _first_time(name: str) -> bool:
    marker = Path(os.environ["STILLHOUSE_CRASH_MARKERS"], name)
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
