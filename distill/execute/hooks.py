"""Named points at which a test can make this process die as if by `kill -9`, or stand. Without the variables they cost two look-ups.

`STILLHOUSE_CRASH_AT="bootstrap.flushed:3"` kills the process the third time it passes that point; several points stand between commas.
A marker file in `STILLHOUSE_CRASH_MARKERS` (a folder) makes each happen once, also across restarts. A marker that a test makes itself
keeps its point quiet until the test removes it.

With `STILLHOUSE_HOLD_AT` in the same form the process stands there, still beating, from marker `<point>` on until the test makes
`<point>.go`.
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
    | {f"blob.{moment}" for moment in ("writing", "synced", "renamed", "placed")}
    | {f"train.{moment}" for moment in ("leased_device", "mid_work", "before_publish", "after_publish")}
)

_LOOK_SECONDS = 0.02
_passed: Counter[str] = Counter()
_lock = threading.Lock()


def crash_point(name: str) -> None:
    """Die or stand here if the environment says so."""
    if _is_wanted("STILLHOUSE_CRASH_AT", name):
        os.kill(os.getpid(), signal.SIGKILL)
    if _is_wanted("STILLHOUSE_HOLD_AT", name):
        go = Path(os.environ["STILLHOUSE_CRASH_MARKERS"], f"{name}.go")
        pause = threading.Event()
        while not go.exists():
            pause.wait(_LOOK_SECONDS)


def _is_wanted(variable: str, name: str) -> bool:
    """Whether the variable names this point, for the first time in this folder of markers."""
    wanted = os.environ.get(variable)
    if wanted is None:
        return False
    counts = [count for point, _, count in (each.partition(":") for each in wanted.split(",")) if point == name]
    return any(_passes(name) >= int(count or 1) and _first_time(name) for count in counts)


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
