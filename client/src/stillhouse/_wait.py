"""Waiting for a job: the deadline, and the bars that show it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from stillhouse._exceptions import WaitTimeout
from stillhouse.types import CompileJob

OnUpdate = Callable[[CompileJob], None]
_LONGEST_POLL = 30.0


class Deadline:
    """Cuts a wait into long polls of at most 30 s."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._began = time.monotonic()

    def next_wait(self, job: CompileJob) -> float:
        """Seconds to ask the server to hold the next poll. Raises WaitTimeout when none are left."""
        if self._seconds is None:
            return _LONGEST_POLL
        left = self._seconds - (time.monotonic() - self._began)
        if left <= 0:
            raise WaitTimeout(job.id, job.status, self._seconds)
        return max(1.0, min(_LONGEST_POLL, left))


class StepBars:
    """One bar a step, on standard error; a bar appears when its step starts."""

    def __init__(self) -> None:
        self._tqdm: Any = import_module("tqdm.auto").tqdm
        self._bars: dict[str, Any] = {}

    def update(self, job: CompileJob) -> None:
        for step in job.steps:
            if step.status == "queued" and step.name not in self._bars:
                continue
            bar = self._bars.setdefault(step.name, None) or self._open(step.name, step.total)
            bar.total = step.total or None
            bar.n = step.done
            bar.refresh()

    def _open(self, name: str, total: int) -> Any:
        self._bars[name] = self._tqdm(total=total or None, desc=f"{name:<9}", leave=True)
        return self._bars[name]

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()


@contextmanager
def watcher(progress: bool, on_update: OnUpdate | None) -> Iterator[OnUpdate]:
    """What to call with each state of the job."""
    bars = StepBars() if progress else None

    def update(job: CompileJob) -> None:
        if bars:
            bars.update(job)
        if on_update:
            on_update(job)

    try:
        yield update
    finally:
        if bars:
            bars.close()
