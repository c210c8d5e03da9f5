"""Grants: who may call which slots, how often, and what it came to."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from distill import tracing
from distill.relay.allowance import Allowance, Amount, Refill, Shortage
from distill.relay.limiter import Waiting
from distill.relay.targets import RelayReply, Target

_MOST_CLOCKS = 4096
"""Of one grant: more than a runner begins rollouts at once. A program chooses their names."""


@dataclass(frozen=True)
class SlotUsage:
    """What one slot of a grant has used. `calls` are answered calls; `seconds` is their time, queueing and retries included.

    `usd` is what they cost; None where the price is not known.
    """

    calls: int = 0
    failed: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    usd: float | None = 0.0


@dataclass(eq=False)
class Grant:
    """A token that may call its slots, as far as its allowance goes. Safe to use from any thread.

    `refill` is asked for more when something is used up, in a thread of its own, since it may block.
    """

    targets: Mapping[str, Target]
    allowance: Allowance
    _forget: Callable[[Grant], None] = field(repr=False)
    refill: Refill | None = field(default=None, repr=False)
    project_id: str | None = None
    """Whose replies it may find and keep; None where it asks anew each time."""
    is_held: Callable[[], bool] = field(default=lambda: True, repr=False)
    """False from the moment at which somebody else may have its work: nothing is asked any more then."""
    background: bool = False
    """Its calls are of a job, which has time, and not of somebody who waits for an answer."""
    trace: tracing.Parent | None = field(default_factory=tracing.context, repr=False)
    """Its calls are recorded below the span in which it was granted."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    _usage: dict[str, SlotUsage] = field(default_factory=dict)
    _reused: dict[str, SlotUsage] = field(default_factory=dict)
    _tasks: set[asyncio.Task[Any] | None] = field(default_factory=set)
    _waits: dict[str, Waiting] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _refilling: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    def usage(self) -> dict[str, SlotUsage]:
        """By slot, so far."""
        with self._lock:
            return dict(self._usage)

    def reused(self) -> dict[str, SlotUsage]:
        """By slot, what was answered by replies that had been paid before."""
        with self._lock:
            return dict(self._reused)

    def spent(self) -> Amount:
        """Over all slots, so far."""
        with self._lock:
            return self.allowance.spent

    def waiting(self, rollout: str) -> Waiting:
        """The clock of one rollout, by the name that its calls carry; the oldest makes room for a new one.

        From the relay's own loop only.
        """
        if rollout not in self._waits and len(self._waits) >= _MOST_CLOCKS:
            del self._waits[next(iter(self._waits))]
        return self._waits.setdefault(rollout, Waiting())

    def waited(self, rollout: str) -> float:
        """Seconds on that clock. From the relay's own loop only."""
        clock = self._waits.get(rollout)
        return clock.seconds if clock else 0.0

    def revoke(self) -> None:
        """No further call; those in flight are cut off."""
        self._forget(self)

    def end_rollout(self, calls: int) -> None:
        """A rollout has ended, with so many answered calls."""
        with self._lock:
            self.allowance.end_rollout(calls)

    def end_all_rollouts(self) -> None:
        """No rollout is under way."""
        with self._lock:
            self.allowance.end_all_rollouts()

    async def take(self, rollout: str) -> bool:
        """Reserve one call; False when nothing is left and the refill gave nothing. From the relay's own loop only.

        Raises TooManyCalls, and what the refill raises.
        """
        while self._take(rollout) is not None:
            async with self._refilling:
                lacking = self._take(rollout)
                if lacking is None:
                    return True
                if not await asyncio.to_thread(self._more, lacking):
                    return False
        return True

    def _take(self, rollout: str) -> Shortage | None:
        with self._lock:
            return self.allowance.take(rollout)

    def _more(self, lacking: Shortage) -> bool:
        """In its thread to the end, so that a call that is cut off meanwhile leaves the new calls to the others."""
        block = self.refill(lacking) if self.refill is not None and not self.allowance.cannot_tell else None
        if block is None:
            return False
        with self._lock:
            self.allowance.block = block
        return True

    @contextmanager
    def cutting_off(self) -> Iterator[None]:
        """Around a call, in its task: `cut_off` then cancels it."""
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    def cut_off(self) -> None:
        """Cancel the calls in flight. From the relay's own loop only."""
        for task in list(self._tasks):
            if task is not None:
                task.cancel()

    def settle(self, slot: str, rollout: str, reply: RelayReply | None, usage: Mapping[str, Any], seconds: float) -> None:
        """Book a finished call; one without an answer (reply None: cut off) gives its reservation back."""
        answered = reply is not None and reply.code is None
        usd = self._usd(slot, usage) if answered else 0.0
        with self._lock:
            self.allowance.settle(rollout, answered=answered, tokens=_tokens(usage), usd=usd)
            before = _with(self._usage.get(slot, SlotUsage()), usage, usd)
            self._usage[slot] = replace(
                before,
                calls=before.calls + answered,
                failed=before.failed + (not answered),
                retries=before.retries + (reply.attempts - 1 if reply else 0),
                seconds=before.seconds + seconds,
            )

    def reuse(self, slot: str, rollout: str, usage: Mapping[str, Any]) -> None:
        """Book a call that was answered by a reply that had been paid before: nothing is spent."""
        with self._lock:
            self.allowance.answer_for_nothing(rollout)
            before = _with(self._reused.get(slot, SlotUsage()), usage, self._usd(slot, usage))
            self._reused[slot] = replace(before, calls=before.calls + 1)

    def _usd(self, slot: str, usage: Mapping[str, Any]) -> float | None:
        """An answer that does not say its usage has no known price."""
        price = self.targets[slot].price
        return price(usage) if price is not None and usage else None


def _with(before: SlotUsage, usage: Mapping[str, Any], usd: float | None) -> SlotUsage:
    """With the tokens and the price of one more answer."""
    details = usage.get("prompt_tokens_details") or {}
    return replace(
        before,
        prompt_tokens=before.prompt_tokens + (usage.get("prompt_tokens") or 0),
        completion_tokens=before.completion_tokens + (usage.get("completion_tokens") or 0),
        cached_tokens=before.cached_tokens + (details.get("cached_tokens") or 0),
        usd=None if before.usd is None or usd is None else before.usd + usd,
    )


def _tokens(usage: Mapping[str, Any]) -> int | None:
    """Of prompt and answer; None where the answer does not say."""
    counted = [usage[name] for name in ("prompt_tokens", "completion_tokens") if usage.get(name) is not None]
    return sum(counted) if counted else None
