"""Warm runners. One runner serves one (project, job, runtime, bundles) at a time and is never passed on to another project or job.

Two texts of one module are no guests of one process: programs of a job whose bundles are others run in runners of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Self

import structlog

from distill.errors import Invalid
from distill.relay import Relay
from distill.rollouts.bundles import BundleSource, no_bundle_of
from distill.rollouts.errors import RunnerError
from distill.rollouts.runner import Runner
from distill.rollouts.runtimes import runtime_named
from distill.sandbox import Choice, Limits, choose, memory

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.25

Over = Callable[[Collection[str]], Collection[str]]


class Key(NamedTuple):
    """Whose a runner is, and what it can run."""

    project: str
    job: str
    runtime: str
    bundles: frozenset[str]


def _none_over(jobs: Collection[str]) -> Collection[str]:
    return ()


@dataclass
class _Idle:
    runner: Runner
    since: float


class RunnerPool:
    """Thread-safe. `pythons` maps a runtime's name to its interpreter; `references` are the packages that programs may name as code, and
    `bundles` gives the code that projects have sent.

    All runners start in `sandbox`, or else in the best that holds here; with none that holds they run no code of others.
    Runners are ended that take too much memory: as soon as the machine's free memory falls, and every `sweep_seconds`. Then those are, too,
    that fill the disk, and idle ones that were idle for long, or whose jobs are among those that
    `over` returns: nobody else ends the runner of a job that is cancelled between two of its work items. `over` gets job ids and raises
    nothing.
    """

    def __init__(
        self,
        relay: Relay,
        pythons: Mapping[str, str],
        *,
        sandbox: Choice | None = None,
        limits: Limits | None = None,
        idle_seconds: float = 60.0,
        sweep_seconds: float = 5.0,
        max_idle: int = 4,
        references: Sequence[str] = (),
        bundles: BundleSource = no_bundle_of,
        over: Over = _none_over,
    ) -> None:
        self._relay = relay
        self._pythons = dict(pythons)
        self._sandbox = sandbox or choose()
        self._limits = limits or Limits()
        self._references = tuple(references)
        self._bundles = bundles
        self._idle_seconds = idle_seconds
        self._sweep_seconds = sweep_seconds
        self._over = over
        self._max_idle = max_idle
        self._idle: dict[Key, list[_Idle]] = {}
        self._busy: dict[Runner, Key] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        for work in (self._sweep, self._watch_memory):
            threading.Thread(target=work, name=f"runner{work.__name__}", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def runner(self, project: str, job: str, python: str = "", *, bundles: Collection[str] = (), fresh: bool = False) -> Iterator[Runner]:
        """A runner for as long as the block lasts: a warm one unless `fresh`, or a new one. One that died in the block is not kept.

        `python` is the minor version that a bundle's code needs, `bundles` are the digests of all that the requests of the block name.
        Raises RunnerError where no runtime has the version, RunnerDied when it does not start.
        """
        key = Key(project, job, self._runtime(python), frozenset(bundles))
        runner = (None if fresh else self._take(key)) or self._start(key)
        with self._lock:
            self._busy[runner] = key
        try:
            yield runner
        finally:
            self._put_back(key, runner)

    def end_job(self, project: str, job: str) -> None:
        """Kill every runner of a job, busy ones too: its lease is lost, or it is cancelled or done."""
        with self._lock:
            found = [runner for runner, key in self._busy.items() if (key.project, key.job) == (project, job)]
            for key in [key for key in self._idle if (key.project, key.job) == (project, job)]:
                found += [idle.runner for idle in self._idle.pop(key)]
        for runner in found:
            runner.kill()

    def close(self) -> None:
        """Kill all runners."""
        self._closed.set()
        runners = self._everyone()
        with self._lock:
            self._idle.clear()
        for runner in runners:
            runner.kill()

    def _runtime(self, python: str) -> str:
        try:
            return runtime_named(self._pythons, python)
        except Invalid as error:
            raise RunnerError(error.code, error.message, "bundle") from None

    def _start(self, key: Key) -> Runner:
        source = partial(self._bundles, key.project)
        owner = {"project": key.project, "job": key.job}
        return Runner(self._pythons[key.runtime], self._relay, self._limits, self._references, self._sandbox, source, owner)

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
        while not self._closed.wait(self._sweep_seconds):
            for runner in self._everyone():
                _check(runner)
            with self._lock:
                jobs = {key.job for key in self._idle}
            over = self._over(jobs) if jobs else ()
            for runner in self._outdated(set(over), time.monotonic() - self._idle_seconds):
                runner.kill()

    def _watch_memory(self) -> None:
        """Many processes fill a machine long before the next sweep."""
        fall = memory.Fall()
        while not self._closed.wait(_LOOK_SECONDS):
            if fall.is_seen():
                for runner in self._everyone():
                    _check(runner)

    def _everyone(self) -> list[Runner]:
        with self._lock:
            return [*self._busy, *(idle.runner for group in self._idle.values() for idle in group)]

    def _outdated(self, over: set[str], limit: float) -> list[Runner]:
        """Take out the runners of jobs that are over, and those that are idle since before `limit`, or dead."""
        found = list[Runner]()
        with self._lock:
            for key, group in list(self._idle.items()):
                kept = [idle for idle in group if key.job not in over and idle.since >= limit and idle.runner.alive]
                found += [idle.runner for idle in group if idle not in kept]
                self._idle[key] = kept
                if not kept:
                    del self._idle[key]
        return found


def _check(runner: Runner) -> None:
    """Whatever its program did: the other runners are looked at, too."""
    try:
        runner.check_memory()
        runner.check_disk()
    except Exception:
        log.exception("what a runner takes could not be measured")
