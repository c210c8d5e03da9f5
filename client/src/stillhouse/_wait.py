"""Waiting, for a job, for an upload or for a server that is away: the deadline, and the bars that show it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from stillhouse._exceptions import APIConnectionError, RateLimitError, ServerError, WaitTimeout
from stillhouse._extras import extra
from stillhouse.types import CompileJob, Step

OnUpdate = Callable[[CompileJob], None]
OnSent = Callable[[int], None] | None
T = TypeVar("T")
_LONGEST_POLL = 30.0
_AWAY = (APIConnectionError, ServerError, RateLimitError)
PATIENCE_SECONDS = 600.0
PAUSE_SECONDS = 2.0


def patiently(ask: Callable[[], T], pause: Callable[[float], object] = time.sleep) -> T:
    """What `ask` returns. While the server is away it is asked again, for ten minutes, or until `pause` returns true."""
    began = time.monotonic()
    while True:
        try:
            return ask()
        except _AWAY:
            if time.monotonic() - began > PATIENCE_SECONDS or pause(PAUSE_SECONDS):
                raise


async def apatiently(ask: Callable[[], Awaitable[T]]) -> T:
    """`patiently`, awaited."""
    began = time.monotonic()
    while True:
        try:
            return await ask()
        except _AWAY:
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise
            await asyncio.sleep(PAUSE_SECONDS)


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


def _tqdm() -> Any:
    with extra("cli"):
        return import_module("tqdm.auto").tqdm


class StepBars:
    """One bar a step, on standard error; a bar appears when its step starts and stands still when the step is over."""

    _FORMAT = "{desc} {percentage:3.0f}%|{bar:30}| {postfix} [{elapsed}]"

    def __init__(self) -> None:
        self._tqdm = _tqdm()
        self._bars: dict[str, Any] = {}
        self._over: set[str] = set()

    def update(self, job: CompileJob) -> None:
        for step in job.steps:
            if step.status != "queued" and step.name not in self._over:
                self._show(step, job)

    def _show(self, step: Step, job: CompileJob) -> None:
        bar = self._bars.get(step.name)
        if bar is None:
            bar = self._bars[step.name] = self._tqdm(total=100, desc=f"{step.name:<9}", bar_format=self._FORMAT)
        bar.n = _percent(step, job)
        bar.set_postfix_str(f"{step.done}/{step.total}", refresh=False)
        bar.refresh()
        if step.status != "running":
            self._over.add(step.name)
            bar.close()

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()


def _percent(step: Step, job: CompileJob) -> float:
    """Training counts what its fine-tune jobs tell of themselves: there is often just one."""
    if step.name == "train" and job.fine_tuning_jobs:
        return sum(child.percent for child in job.fine_tuning_jobs) / len(job.fine_tuning_jobs)
    return 100 * step.done / step.total if step.total else 0.0


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


@contextmanager
def sending(path: Path | None) -> Iterator[OnSent]:
    """What to tell how many bytes of a file have gone out: a bar on standard error, or nothing for no file."""
    if path is None:
        yield None
        return
    with _tqdm()(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True) as bar:

        def on_sent(count: int) -> None:
            bar.n = count
            bar.refresh()

        yield on_sent
