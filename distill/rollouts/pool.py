"""Warm runners. One runner serves one (project, job, runtime) at a time and is never passed on to another project or job."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from distill.rollouts.runner import Runner
from distill.rollouts.spawn import RunnerLimits

Key = tuple[str, str, str]


@dataclass
class _Idle:
    runner: Runner
    since: float


class RunnerPool:
    """Thread-safe. `pythons` maps a runtime's name to its interpreter; `references` are the packages that programs may name as code."""

    def __init__(
        self,
        relay_socket: str,
        pythons: Mapping[str, str],
        *,
        limits: RunnerLimits | None = None,
        idle_seconds: float = 60.0,
        max_idle: int = 4,
        references: Sequence[str] = (),
    ) -> None:
        self._relay_socket = relay_socket
        self._pythons = dict(pythons)
        self._limits = limits or RunnerLimits()
        self._references = tuple(references)
        self._idle_seconds = idle_seconds
        self._max_idle = max_idle
        self._idle: dict[Key, list[_Idle]] = {}
        self._busy: dict[Runner, Key] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="runner-sweeper", daemon=True)
        self._sweeper.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def runner(self, project: str, job: str, runtime: str = "default", *, fresh: bool = False) -> Iterator[Runner]:
        """A runner for as long as the block lasts: a warm one unless `fresh`, or a new one. One that died in the block is not kept.

        Raises KeyError for an unknown runtime, RunnerDied when it does not start.
        """
        key = (project, job, runtime)
        runner = (None if fresh else self._take(key)) or Runner(self._pythons[runtime], self._relay_socket, self._limits, self._references)
        with self._lock:
            self._busy[runner] = key
        try:
            yield runner
        finally:
            self._put_back(key, runner)

    def end_job(self, project: str, job: str) -> None:
        """Kill every runner of a job, busy ones too: its lease is lost, or it is cancelled or done."""
        with self._lock:
            found = [runner for runner, key in self._busy.items() if key[:2] == (project, job)]
            for key in [key for key in self._idle if key[:2] == (project, job)]:
                found += [idle.runner for idle in self._idle.pop(key)]
        for runner in found:
            runner.kill()

    def close(self) -> None:
        """Kill all runners."""
        self._closed.set()
        with self._lock:
            runners = [*self._busy, *(idle.runner for group in self._idle.values() for idle in group)]
            self._idle.clear()
        for runner in runners:
            runner.kill()

    def _take(self, key: Key) -> Runner | None:
        with self._lock:
            group = self._idle.get(key, [])
            while group:
                runner = group.pop().runner
                if runner.alive:
                    return runner
        return None

    def _put_back(self, key: Key, runner: Runner) -> None:
        with self._lock:
            self._busy.pop(runner, None)
            keep = runner.alive and not self._closed.is_set()
            if keep:
                self._idle.setdefault(key, []).append(_Idle(runner, time.monotonic()))
            surplus = self._surplus()
        for each in surplus if keep else [runner, *surplus]:
            each.kill()

    def _surplus(self) -> list[Runner]:
        """Take out the runners that were idle longest, down to `max_idle`."""
        everyone = sorted(((idle.since, key, idle) for key, group in self._idle.items() for idle in group), key=lambda each: each[0])
        over = everyone[: max(0, len(everyone) - self._max_idle)]
        for _, key, idle in over:
            self._idle[key].remove(idle)
        return [idle.runner for _, _, idle in over]

    def _sweep(self) -> None:
        while not self._closed.wait(min(5.0, self._idle_seconds / 2)):
            limit = time.monotonic() - self._idle_seconds
            with self._lock:
                old = [idle.runner for group in self._idle.values() for idle in group if idle.since < limit]
                for key, group in list(self._idle.items()):
                    kept = [idle for idle in group if idle.since >= limit and idle.runner.alive]
                    self._idle[key] = kept
                    if not kept:
                        del self._idle[key]
            for runner in old:
                runner.kill()
