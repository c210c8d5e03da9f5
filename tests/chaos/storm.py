"""A random run: clients that carry small jobs to their end, several at once, and two hands that do damage meanwhile.

A fault strikes whenever some more jobs are over, so a run has as many of them on a slow machine as on a fast one.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import httpx

from distill.sandbox import choose
from tests.chaos import dice
from tests.chaos.dice import Plan
from tests.chaos.jobs import anchors, body
from tests.chaos.world import OVER, World

IN_FLIGHT = 12
LATENCY_SECONDS = 0.3
"""Of the teacher: long enough for faults to find calls in flight."""
JOBS_A_FAULT = 3
LONGEST_JOB_SECONDS = 240.0
TIMERS = {
    "SILENCE_SECONDS": "15",
    "FINISH_SECONDS": "10",
    "STOP_GRACE_SECONDS": "10",
    "DRAIN_SECONDS": "20",
    "STALL_SECONDS": "300",
    "CALL_ATTEMPT_SECONDS": "10",
    "CALL_PAUSE_CAP_SECONDS": "1",
    "BREAKER_SECONDS": "1",
    "CONNECTION_PAUSE_SECONDS": "0.5",
    "CONNECTION_PAUSE_CAP_SECONDS": "2",
}
Told = Callable[[int], None]


@dataclass
class Storm:
    """`runs` jobs of a seed in a world. `told` hears how many are over, as they end.

    Attributes:
        struck: how often each fault struck.
    """

    world: World
    seed: int
    runs: int
    told: Told = lambda _over: None
    struck: Counter[str] = field(default_factory=Counter)

    def rage(self) -> None:
        """Until every client is done and every part is whole again."""
        self._statuses: dict[str, str] = {}
        self._changed = threading.Condition()
        self._ended = 0
        self._calm = threading.Event()
        self._numbers = itertools.count()
        self._train_what_all_share()
        with ThreadPoolExecutor(3, "helper") as helpers:
            begun = [helpers.submit(self._watch), *(helpers.submit(self._strike) for _ in range(2))]
            try:
                self._send_all()
            finally:
                self._calm.set()
                with self._changed:
                    self._changed.notify_all()
        for each in begun:
            each.result()  # one that ended early made the run quieter than it says
        self.world.wait_whole()

    def _send_all(self) -> None:
        with ThreadPoolExecutor(IN_FLIGHT, "client") as clients:
            try:
                list(clients.map(self._carry, dice.plans(self.seed, self.runs)))
            except BaseException:
                clients.shutdown(wait=False, cancel_futures=True)  # Ctrl-C ends it with the jobs under way
                raise

    def _train_what_all_share(self) -> None:
        """Before anything is done to it: thereafter most jobs find their training done."""
        if choose().rung is not None:
            self.world.send_code()
        job = self.world.submit(body(anchors()), what="anchors")
        self.world.wait_over([job], LONGEST_JOB_SECONDS)
        assert self.world.status(job) == "succeeded", "a job without any fault did not succeed"

    # ------------------------------------------------------------ damage

    def _strike(self) -> None:
        """One hand: the next fault, as soon as enough jobs are over for it."""
        while not self._calm.is_set():
            number = next(self._numbers)
            with self._changed:
                self._changed.wait_for(partial(self._is_due, number))
            if self._calm.is_set():
                return
            fault = dice.fault(self.seed, number)
            try:
                fault.strike(self.world)
                self.struck[fault.name] += 1
            except dice.Missed:
                continue
            except Exception as error:  # the run goes on to its verdict, and does not pass
                self.world.refused.append(f"fault {number} ({fault.name}): {error!r}")

    def _is_due(self, number: int) -> bool:
        return self._calm.is_set() or self._ended >= number * JOBS_A_FAULT

    # ------------------------------------------------------------ clients

    def _carry(self, plan: Plan) -> None:
        try:
            self._live(plan)
        except AssertionError as error:
            self.world.refused.append(f"{plan.name}: {error}")
        finally:
            with self._changed:
                self._ended += 1
                self._changed.notify_all()
            self.told(self._ended)

    def _live(self, plan: Plan) -> None:
        world, (first, second) = self.world, plan.moments
        job = world.submit(plan.body, what=plan.name, key=plan.name)
        if plan.client == "sends twice":
            assert world.submit(plan.body, what=plan.name, key=plan.name) == job, "one Idempotency-Key made two jobs"
        self._wait(job, OVER, 0.0 if plan.client == "waits" else first)
        if plan.client == "cancels":
            world.ask(job, "cancel")
        elif plan.client == "pauses":
            world.ask(job, "pause")
            self._wait(job, OVER, second)
            world.ask(job, "resume")
        elif plan.client == "starts late":
            world.ask(job, "start")
        self._see_to_the_end(job, plan)

    def _see_to_the_end(self, job: str, plan: Plan) -> None:
        self._wait(job, OVER, LONGEST_JOB_SECONDS)
        for _ in range(plan.retries):
            if self._statuses.get(job) == "failed" and self.world.ask(job, "retry") < 300:
                with self._changed:
                    self._statuses[job] = "queued"
                self._wait(job, OVER, LONGEST_JOB_SECONDS)
        with contextlib.suppress(httpx.TransportError):  # the API may be away just now
            code = self.world.look(job)
            assert code in (200, 503), f"GET of {job}: {code}"

    def _wait(self, job: str, statuses: tuple[str, ...], seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._statuses.get(job) in statuses, seconds)

    def _watch(self) -> None:
        """How all jobs stand, for every client."""
        while not self._calm.wait(0.2):
            found = self.world.statuses()
            with self._changed:
                self._statuses = found
                self._changed.notify_all()
