"""What an example still needs, and whether the teacher's answers are worth going on with."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from distill.pipeline.refusals import Reason, all_rollouts_failed, hopeless, smoke_test_failed
from distill.spec import SmokeTest

HOPELESS_EXAMPLES = 10
"""So many first examples that all fail with one error, and nothing else, end a job."""
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


# ------------------------------------------------------------------ the first examples


@dataclass(frozen=True)
class Outcome:
    """What became of one example: `passed`, or why not. `errors` are those of its rollouts, each with what makes it the same as another."""

    kind: str
    errors: Mapping[str, str] = field(default_factory=dict)


def outcome(rollouts: Sequence[Stored]) -> Outcome:
    """Of an example whose rollouts are over. An answer below the bar tells more than one that could not be read, and so on."""
    found = [_rollout_outcome(stored) for stored in rollouts if stored.trace is not None]
    kind = min((each.kind for each in found), key=_KINDS.index)
    return Outcome(kind, {key: text for each in found for key, text in each.errors.items()})


def not_run(code: str, message: str) -> Outcome:
    """Of an example that could not be run to its end."""
    return Outcome("undecided", {code: f"{code}: {message}"})


_KINDS = ("passed", "not_passed", "inconclusive", "metric_failed", "unparsable", "failed", "undecided")


def _rollout_outcome(stored: Stored) -> Outcome:
    trace, score = stored.trace or {}, stored.score or {}
    if has_passed(stored.score):
        return Outcome("passed")
    if trace["status"] != "ok":
        error = trace.get("error") or {}
        text = f"{error.get('type')}: {error.get('message')}"
        return Outcome(trace["status"], {_place(trace["status"], error) or text: text})
    if score.get("status") == "failed":
        text = str(score.get("error"))
        return Outcome("metric_failed", {"metric " + text.partition(":")[0]: f"the metric: {text}"})
    return Outcome("inconclusive" if score.get("status") == "inconclusive" else "not_passed")


def _place(status: str, error: Mapping[str, Any]) -> str | None:
    """Type and innermost frame: the same fault raised at the same place, whatever of the example its message repeats."""
    frame = str(error.get("traceback") or "").rpartition("\n")[2]
    return f"{error.get('type')} {frame}" if status == "failed" and frame else None


def first_examples(smoke_test: SmokeTest | None) -> int:
    """How many examples a teacher runs before the others."""
    return max(HOPELESS_EXAMPLES, smoke_test.n if smoke_test else 0)


def judge(outcomes: Sequence[Outcome | None], smoke_test: SmokeTest | None, teacher: str, rest: int) -> Reason | None:
    """A reason to stop, by what is known of the first examples so far (None: not over yet); `rest` are the examples after them."""
    error = _only_error(outcomes[:HOPELESS_EXAMPLES])
    if error is not None:
        return hopeless(HOPELESS_EXAMPLES, error, teacher, len(outcomes) + rest - HOPELESS_EXAMPLES)
    if smoke_test is None or rest + len(outcomes) <= smoke_test.n:
        return None
    over = [each for each in outcomes[: smoke_test.n] if each is not None]
    passed = sum(each.kind == "passed" for each in over)
    if passed + smoke_test.n - len(over) >= smoke_test.min_pass:
        return None
    errors = Counter(text for each in over for text in each.errors.values())
    return smoke_test_failed(smoke_test.n, smoke_test.min_pass, Counter(each.kind for each in over), errors, teacher)


def _only_error(outcomes: Sequence[Outcome | None]) -> str | None:
    """The error that all of ten examples ended with, and no other."""
    known = [each for each in outcomes if each is not None and each.kind not in ("passed", "not_passed", "inconclusive")]
    keys = {key for each in known for key in each.errors}
    if len(known) < HOPELESS_EXAMPLES or len(keys) != 1:
        return None
    return next(text for each in known for text in each.errors.values())


def verdict(counts: Mapping[str, int], errors: Mapping[str, int]) -> Reason | None:
    """At the end of bootstrap: a reason to stop before training when no rollout gave an answer."""
    return None if counts.get("ok", 0) else all_rollouts_failed(counts, errors)
