"""What an example still needs, and whether the teacher's answers are worth going on with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from distill.pipeline.refusals import Reason, all_rollouts_failed

SMOKE_TEST_EXAMPLES = 10
SMOKE_TEST_ROLLOUTS = 30
"""With one rollout an example, ten examples of a teacher that answers one time in five all fail in a tenth of all jobs."""
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


def has_failed(statuses: Sequence[str | None]) -> bool:
    """Whether an example is lost: every one of its rollouts was run (None: not yet), and none gave an answer."""
    return bool(statuses) and not {None, "ok"} & set(statuses)


class SmokeTest:
    """Fails once the first examples have failed in every rollout: a whole trainset of them would cost more and say no more.

    `counts` are those of the slices that are done. One answer ends the watch for good.
    """

    def __init__(self, counts: Mapping[str, Any], *, watching: bool = True) -> None:
        self._examples = int(counts.get("failed_examples", 0))
        self._rollouts = int(counts.get("failed", 0)) + int(counts.get("unparsable", 0))
        self._watching = watching and not counts.get("ok")

    def add(self, statuses: Sequence[str | None]) -> None:
        """How the rollouts of an example stand now. Told again after each of them, a failed example counts with its last."""
        if "ok" in statuses:
            self.look_away()
        elif has_failed(statuses):
            self._examples += 1
            self._rollouts += len(statuses)

    def look_away(self) -> None:
        """There is an answer: whatever fails from now on, the teacher can do it."""
        self._watching = False

    @property
    def failed(self) -> bool:
        return self._watching and self._examples >= SMOKE_TEST_EXAMPLES and self._rollouts >= SMOKE_TEST_ROLLOUTS


def verdict(counts: Mapping[str, int], errors: Mapping[str, int]) -> Reason | None:
    """At the end of bootstrap: a reason to stop before training when no rollout gave an answer."""
    return None if counts.get("ok", 0) else all_rollouts_failed(counts, errors)
