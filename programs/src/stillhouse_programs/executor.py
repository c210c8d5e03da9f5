"""Many rollouts at once: `width` examples in flight, each example's rollouts in order, events out as they happen.

Memory stays flat: examples come from the request, results leave through `emit`, which waits when the reader is slow.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field

from stillhouse_programs.collect import Metric, Prepared, run_rollout, score_trace
from stillhouse_programs.protocol import InfrastructureError, Json, message_of

Emit = Callable[[Json], Awaitable[None]]

# After one of these, every further call would end the same way.
FATAL_CODES = frozenset({"budget_exhausted", "connection_waiting", "model_loading", "unauthorized", "relay_lost", "memory"})
_PATIENCE = 3
FINISHED = "finished"
"""Why a slice stopped that was asked to."""


@dataclass(frozen=True)
class Plan:
    """How to run a slice. `metric` is None where somebody else scores."""

    token: str
    width: int
    time_limit_seconds: float | None
    metric: Metric | None
    min_score: float
    stop_on_pass: bool
    waited: Callable[[str, str], Awaitable[float]] | None = None
    """Of a token and a rollout's name: how long its LM calls have waited for a place."""


@dataclass
class Slice:
    """One `rollouts` request being worked off.

    An example that meets infrastructure trouble emits `infra` and no `example_done`: it was not decided. When trouble is fatal, or comes
    more often in a row than there are tasks, no further example starts.
    """

    prepared: Prepared
    plan: Plan
    emit: Emit
    threads: Executor | None = None
    counts: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None
    _in_a_row: int = 0

    async def run(self, examples: list[Json]) -> Json:
        """Returns the counts of the `done` event."""
        waiting = iter(examples)
        workers = [asyncio.create_task(self._work(waiting)) for _ in range(min(self.plan.width, len(examples)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        self.counts["not_started"] = len(examples) - self.counts["examples"]
        return {"counts": dict(self.counts), "stopped": self.stopped}

    def finish(self) -> None:
        """No further example or rollout begins."""
        self.stopped = self.stopped or FINISHED

    async def _work(self, waiting: Iterator[Json]) -> None:
        while self.stopped is None and (example := next(waiting, None)) is not None:
            self.counts["examples"] += 1
            await self._example(example)

    async def _example(self, example: Json) -> None:
        passed, used = False, 0
        for rollout in example["rollouts"]:
            if used and self.stopped is not None:
                return
            place = {"index": example["index"], "n": rollout["n"]}
            try:
                score = await self._rollout(example, rollout, place)
            except InfrastructureError as trouble:
                await self._trouble(trouble, place)
                return
            except Exception as fault:  # in this code, met by something that this example brought along
                await self._trouble(InfrastructureError("runner_fault", f"{type(fault).__name__}: {message_of(fault)}"), place)
                return
            used += 1
            passed = passed or bool(score and score["passed"])
            if passed and self.plan.stop_on_pass:
                break
        self.counts["passed"] += passed
        await self.emit({"event": "example_done", "index": example["index"], "passed": passed, "rollouts_used": used})

    async def _rollout(self, example: Json, rollout: Json, place: Json) -> Json | None:
        trace = rollout.get("trace") or await self._trace(example, rollout, place)
        score: Json | None = rollout.get("score")
        if score is not None or self.plan.metric is None:
            self.counts["reused_scores"] += score is not None
            return score
        score = await score_trace(
            self.prepared, trace, example.get("labels") or {}, self.plan.metric, self.plan.min_score, self.plan.time_limit_seconds
        )
        await self.emit({"event": "score", **place, "score": score})
        return score

    async def _trace(self, example: Json, rollout: Json, place: Json) -> Json:
        trace = await run_rollout(
            self.prepared,
            example["inputs"],
            token=self.plan.token,
            seed=rollout.get("seed"),
            time_limit_seconds=self.plan.time_limit_seconds,
            threads=self.threads,
            waited=functools.partial(self._waited, place) if self.plan.waited is not None else None,
        )
        await self.emit({"event": "trace", **place, "trace": trace})
        self._in_a_row = 0
        self.counts[trace["status"]] += 1
        self.counts["foreign_calls"] += trace["foreign_calls"]
        return trace

    async def _waited(self, place: Json, rollout: str) -> float:
        """Told as an event too: a slice whose calls all stand in a queue is not silent, as one that hangs is."""
        assert self.plan.waited is not None  # noqa: S101 - for the type checker; it is not asked otherwise
        seconds = await self.plan.waited(self.plan.token, rollout)
        await self.emit({"event": "waiting", **place, "seconds": round(seconds, 3)})
        return seconds

    async def _trouble(self, trouble: InfrastructureError, place: Json) -> None:
        self.counts["infra"] += 1
        self._in_a_row += 1
        if trouble.code in FATAL_CODES or self._in_a_row > self.plan.width + _PATIENCE:
            self.stopped = self.stopped or trouble.code
        await self.emit({"event": "infra", **place, "code": trouble.code, "message": trouble.message})
