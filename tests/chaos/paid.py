"""Calls that were paid twice, against what the promise allows: those in flight, and those whose trace was not yet committed, at each fault.

Both sides come from outside the code under test: what was asked, and when, from the teacher's own log; when its trace was committed from
PostgreSQL's commit timestamps. A fault is what the test did, and every lease that the reaper had to end.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.jobs import message_of
from tests.chaos.world import Disruption, World
from tests.support.scripted_lm import Call

_COMMITTED = "SELECT body, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float FROM traces"
_REAPED = """
SELECT extract(epoch FROM expires_at)::float, extract(epoch FROM at)::float FROM chaos.audit
 WHERE kind = 'item' AND was = 'leased' AND became IN ('queued', 'failed') AND by_holder IS NOT TRUE
"""
SLACK_SECONDS = 2.0
"""How long the holder of a lost lease may go on until it hears of it: a beat, and what a loaded machine adds."""
NEVER = float("inf")


@dataclass(frozen=True)
class Asked:
    """One call that was answered, or cut off: both are paid. Times are the wall clock's."""

    digest: str
    message: str
    at: float


@dataclass
class Paid:
    """`repeats` calls were asked again; `bound` is how many may have been; each of `unexcused` was, though no fault touched it."""

    calls: int = 0
    repeats: int = 0
    bound: int = 0
    unexcused: list[str] = field(default_factory=list)


def count(world: World) -> Paid:
    """Over everything that the teacher was asked so far."""
    committed = _commits(world)
    faults = [*world.disruptions, *_lost_leases(world)]
    by_digest: dict[str, list[Asked]] = defaultdict(list)
    for asked in _asked(world):
        by_digest[asked.digest].append(asked)
    paid = Paid(calls=sum(map(len, by_digest.values())))
    paid.bound = sum(_exposed(fault, by_digest, committed) for fault in faults)
    for calls in by_digest.values():
        for earlier, later in pairwise(calls):
            paid.repeats += 1
            if not any(_excuses(fault, earlier, later, committed) for fault in faults):
                paid.unexcused.append(f"{later.message!r} {later.at - earlier.at:.2f} s after it was asked")
    return paid


def about(call: Call) -> str:
    """The message that a call of the teacher's log was about."""
    return message_of(call.body)


def _asked(world: World) -> list[Asked]:
    wall = time.time() - time.monotonic()
    calls = [call for call in list(world.lm.calls) if call.status in (200, None)]
    found = [Asked(call.digest, about(call), call.asked_at + wall) for call in calls]
    return sorted(found, key=lambda asked: asked.at)


def _commits(world: World) -> dict[str, float]:
    """When the first trace about a message was committed."""
    found: dict[str, float] = {}
    for body, at in world.query(_COMMITTED):
        message = str(json.loads(body)["inputs"]["message"])
        found[message] = min(at, found.get(message, NEVER))
    return found


def _lost_leases(world: World) -> list[Disruption]:
    """The holder last beat a lease before it ended."""
    lease = float(world.timers.get("LEASE_SECONDS", 3))
    return [Disruption("lost lease", end - lease, at + SLACK_SECONDS) for end, at in world.query(_REAPED)]


def _exposed(fault: Disruption, calls: dict[str, list[Asked]], committed: dict[str, float]) -> int:
    """Calls that a fault may cost: asked before it was over, and not committed when it began."""
    return sum(each[0].at <= fault.until and committed.get(each[0].message, NEVER) > fault.since for each in calls.values())


def _excuses(fault: Disruption, earlier: Asked, later: Asked, committed: dict[str, float]) -> bool:
    """A fault that came between two calls, before what the first one brought was kept."""
    return earlier.at <= fault.until and later.at >= fault.since and committed.get(later.message, NEVER) > fault.since
