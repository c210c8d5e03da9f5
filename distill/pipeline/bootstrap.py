"""What an example still needs, and whether the teacher's answers are worth going on with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from distill.pipeline.refusals import Reason, all_rollouts_failed

SMOKE_TEST_ROLLOUTS = 10
FACTS = frozenset({"ok", "failed", "unparsable"})


class Missing(StrEnum):
    """What one rollout of an example lacks."""

    TRACE = "trace"
    SCORE = "score"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Stored:
    """What the trace store knows of one rollout: a trace, and its score under this job's metric."""

    n: int
    trace: Mapping[str, Any] | None
    score: Mapping[str, Any] | None


def missing(stored: Stored, *, scored: bool) -> Missing:
    """A trace that is no fact is run again; a trace without a score is scored only."""
    if stored.trace is None or stored.trace["status"] not in FACTS:
        return Missing.TRACE
    return Missing.SCORE if scored and stored.score is None else Missing.NOTHING


def example_is_done(rollouts: Sequence[Stored], *, scored: bool, stop_on_pass: bool) -> bool:
    """True when nothing is left to run: all rollouts are there, or one before the first gap has passed."""
    for stored in rollouts:
        if missing(stored, scored=scored) is not Missing.NOTHING:
            return False
        if stop_on_pass and has_passed(stored.score):
            return True
    return True


def has_passed(score: Mapping[str, Any] | None) -> bool:
    return bool(score is not None and score["status"] == "ok" and score["passed"])


class SmokeTest:
    """Fails once the first rollouts of a step have all gone wrong: a whole trainset of them would cost as much and say no more."""

    def __init__(self, counts: Mapping[str, Any], *, watching: bool = True) -> None:
        self.counts = {status: int(counts.get(status, 0)) for status in FACTS}
        self._watching = watching

    def add(self, status: str, many: int = 1) -> None:
        self.counts[status] += many

    @property
    def failed(self) -> bool:
        return self._watching and self.counts["ok"] == 0 and sum(self.counts.values()) >= SMOKE_TEST_ROLLOUTS


def verdict(counts: Mapping[str, int], errors: Mapping[str, int]) -> Reason | None:
    """At the end of bootstrap: a reason to stop before training when no rollout gave an answer."""
    return None if counts.get("ok", 0) else all_rollouts_failed(counts, errors)
