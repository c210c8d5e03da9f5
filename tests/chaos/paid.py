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

from tests.chaos.breaks import WORKER
from tests.chaos.jobs import message_of
from tests.chaos.world import TIMERS, Disruption, World
from tests.support.scripted_lm import Call

_COMMITTED = "SELECT body, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float FROM traces"
_REAPED = """
SELECT extract(epoch FROM expires_at)::float, extract(epoch FROM at)::float, owner FROM chaos.audit
 WHERE kind = 'item' AND was = 'leased' AND became IN ('queued', 'failed') AND by_holder IS NOT TRUE
"""
LOADED_SECONDS = 5.0
"""What a loaded machine adds to the half second after which an answer is kept, and to the beat by which a lost lease is heard of."""
KEPT_SECONDS = 0.5 + LOADED_SECONDS
NEVER = float("inf")
Subject = tuple[str, str]
"""A message, and the model that was asked about it: another model's answer to the same is a trace of its own."""


@dataclass(frozen=True)
class Asked:
    """One call that was answered, or cut off: both are paid. Times are the wall clock's.

    `due` is when what it brought should have been kept, so that nothing which comes later is a reason to ask again.
    """

    digest: str
    subject: Subject
    worker: int
    at: float
    due: float


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
    paid.bound = sum(any(_is_exposed(each, fault, committed) for each in calls) for fault in faults for calls in by_digest.values())
    for calls in by_digest.values():
        for earlier, later in pairwise(calls):
            paid.repeats += 1
            if not any(_is_exposed(earlier, fault, committed) and later.at >= fault.since for fault in faults):
                paid.unexcused.append(f"{later.subject} {later.at - earlier.at:.2f} s after it was asked")
    return paid


def about(call: Call) -> str:
    """The message that a call of the teacher's log was about."""
    return message_of(call.body)


def subject_of(call: Call) -> Subject:
    return about(call), str(call.body["model"])


def _asked(world: World) -> list[Asked]:
    wall = time.time() - time.monotonic()
    away = [fault for fault in world.disruptions if "postgres" in fault.kind]
    found = [
        Asked(call.digest, subject_of(call), int(call.headers[WORKER]), call.asked_at + wall, _due(call.replied_at + wall, away))
        for call in list(world.lm.calls)
        if call.status in (200, None)
    ]
    return sorted(found, key=lambda asked: asked.at)


def _due(replied_at: float, away: list[Disruption]) -> float:
    """While the database is away nothing can be kept."""
    due = replied_at + KEPT_SECONDS
    for fault in sorted(away, key=lambda fault: fault.since):
        due = fault.until + KEPT_SECONDS if fault.since <= due <= fault.until + KEPT_SECONDS else due
    return due


def _commits(world: World) -> dict[Subject, float]:
    """When the first trace about a subject was committed. A trace names its models with their connections."""
    found: dict[Subject, float] = {}
    for body, at in world.query(_COMMITTED):
        trace = json.loads(body)
        for model in {str(call["model"]).partition("/")[2] for call in trace["calls"]}:
            subject = (str(trace["inputs"]["message"]), model)
            found[subject] = min(at, found.get(subject, NEVER))
    return found


def _lost_leases(world: World) -> list[Disruption]:
    """The holder last beat a lease before it ended."""
    lease = float({**TIMERS, **world.timers}["LEASE_SECONDS"])
    lost = world.query(_REAPED)
    return [Disruption("lost lease", end - lease, at + LOADED_SECONDS, int(str(owner).split("-")[-2])) for end, at, owner in lost]


def _is_exposed(call: Asked, fault: Disruption, committed: dict[Subject, float]) -> bool:
    """Whether a fault may cost a call: asked before it was over, in flight or not yet kept when it began, and by the worker that it hit."""
    mine = fault.pid is None or fault.pid == call.worker
    return mine and call.at <= fault.until and call.due >= fault.since and committed.get(call.subject, NEVER) > fault.since
