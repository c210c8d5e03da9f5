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


def missing(stored: Stored, *, scored: bool, retry_failed: bool = False) -> Missing:
    """A trace that is no fact, or a failure to be retried, is run again; a trace without a score is scored only."""
    if stored.trace is None or stored.trace["status"] not in FACTS:
        return Missing.TRACE
    if retry_failed and stored.trace["status"] == "failed":
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


def stop_early(counts: Mapping[str, int], errors: Mapping[str, int]) -> Reason | None:
    """A reason to stop once the first rollouts have all failed: the smoke test of a whole trainset."""
    if _facts(counts) < SMOKE_TEST_ROLLOUTS or counts.get("ok", 0):
        return None
    return all_rollouts_failed(counts, errors)


def verdict(counts: Mapping[str, int], errors: Mapping[str, int]) -> Reason | None:
    """At the end of bootstrap: a reason to stop before training when no rollout gave an answer."""
    return None if counts.get("ok", 0) else all_rollouts_failed(counts, errors)


def _facts(counts: Mapping[str, int]) -> int:
    return sum(counts.get(status, 0) for status in FACTS)


def error_label(trace: Mapping[str, Any]) -> str | None:
    """One line that groups equal failures: the type and the start of the message."""
    if trace["status"] == "ok":
        return None
    error = trace.get("error") or {}
    kind, message = error.get("type") or trace["status"], " ".join(str(error.get("message") or "").split())
    return f"{kind}: {message[:120]}" if message else str(kind)
