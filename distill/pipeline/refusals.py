"""Why a job stops before it spends more: each refusal names the counts and the next thing to do."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distill.errors import JobFault


@dataclass(frozen=True)
class Reason:
    """What a stopped job shows in its `error`; the user can act on it. `data` holds the counts behind the message."""

    code: str
    message: str
    step: str
    param: str | None = None
    retryable: bool = True
    data: Mapping[str, Any] = field(default_factory=dict)

    def fault(self) -> JobFault:
        return JobFault(self.code, self.message, "user", self.param, self.step, self.retryable, dict(self.data) or None)


class Refused(Exception):
    """A step decided that its job can't go on."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.message)
        self.reason = reason


def histogram(scores: Iterable[float | None]) -> list[dict[str, Any]]:
    """Counts of equal scores rounded to two digits, highest score first: `[{"score": 0.8, "count": 512}, …]`."""
    counts = Counter(round(score, 2) for score in scores if score is not None)
    return [{"score": score, "count": counts[score]} for score in sorted(counts, reverse=True)]


def no_rows_kept(traces: int, min_score: float, scores: Iterable[float | None], coverage: Mapping[str, Any]) -> Reason:
    """No trace reached the bar: say how high they came and how to lower it without paying the teacher again."""
    known = [float(score) for score in scores if score is not None]
    bars = histogram(known)
    advice = _advice(max(known, default=0.0))
    return Reason(
        code="no_rows_kept",
        step="prepare",
        param="filter.min_score",
        message=f"{_count(traces, 'trace')}, 0 rows with score >= {_score(min_score)} ({_highest(bars)}). {advice['advice']}",
        data={"traces": traces, "min_score": min_score, "histogram": bars, "coverage": coverage, **advice},
    )


def _highest(bars: list[dict[str, Any]]) -> str:
    if not bars:
        return "no trace has a score"
    best = _score(bars[0]["score"])
    return f"highest {best}; {bars[0]['count']} at {best}"


def _advice(highest: float) -> dict[str, Any]:
    """The end of a message in the API's words, and what other interfaces word for themselves: `refilter`, or `options` of a job."""
    bar = round(highest, 4)
    if bar > highest:  # it would keep nothing
        bar = round(bar - 0.0001, 4)
    if bar <= 0:
        return {"advice": "Check the metric and the labels on the rejected traces: a lower bar would keep answers the metric calls wrong."}
    change = {"filter": {"min_score": bar}}
    return {"advice": f"Ask for POST …/refilter of this job with {json.dumps(change)}: no teacher calls.", "refilter": change}


def _score(value: float) -> str:
    return str(round(float(value), 4))


def no_rows_for_predictor(predictors: Iterable[str], coverage: Mapping[str, Any]) -> Reason:
    """Traces passed, but a predictor that is to be trained has no row of its own. `coverage` is the whole report."""
    names = sorted(predictors)
    found = {name: counts for key in coverage["keys"] for name, counts in key["predictors"].items()}
    counts = "; ".join(f"`{name}`: {_rejections(found.get(name, {}))}" for name in names)
    advice = _next_step(names, coverage, found)
    return Reason(
        code="no_rows_for_predictor",
        step="prepare",
        param="program",
        message=f"No training row for {_names(names)}. {counts}. {advice['advice']}",
        data={"predictors": names, "coverage": coverage, **advice},
    )


def _next_step(names: Iterable[str], coverage: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    if any("too_long" in found.get(name, {}).get("rejected", {}) for name in names):
        change = {"train_options": {"max_seq_length": "auto"}}
        asked = f"Ask for POST …/refilter of this job with {json.dumps(change)}, or a length that they fit in: no teacher calls."
        return {"advice": asked, "refilter": change}
    if any(key["predictor"] for key in coverage["keys"]):
        shared = 'Read the job\'s rejections, or compile with "multitask": true so that predictors of one LM share their rows.'
        return {"advice": shared, "options": {"multitask": True}}
    return {"advice": "Read the job's rejections."}


def _rejections(counts: Mapping[str, Any]) -> str:
    rejected: Mapping[str, int] = counts.get("rejected", {})
    if not rejected:
        return "never called in a trace that passed"
    return f"{_count(sum(rejected.values()), 'row')} rejected ({', '.join(f'{n} {why}' for why, n in sorted(rejected.items()))})"


def nothing_left_to_train(rows: int) -> Reason:
    """Every row that is not held out has the inputs of one that is."""
    message = f"Of {_count(rows, 'row')} none is left to train on: the others have the inputs of held-out rows. Give a `valset`."
    return Reason(code="nothing_left_to_train", step="validate", param="filter.group_by", message=message, retryable=False)


def base_model_unusable(base_model: str, why: str) -> Reason:
    """The trainer cannot read the base model, so it could not train it either."""
    message = f"The base model {base_model} cannot be used. {why}"
    return Reason(code="base_model_unusable", step="validate", param="lms", message=message)


_UNREADABLE = "AdapterParseError"
_IN_FORMAT = " Name a teacher that answers in the format of the prompt, or constrain its answers: `constrain: true` of its LM."


def all_rollouts_failed(counts: Mapping[str, int], errors: Mapping[str, int]) -> Reason:
    """The teacher answered nothing that can be scored: stop before training, with the commonest errors."""
    total = sum(counts.get(name, 0) for name in ("ok", "failed", "unparsable"))
    worst = "; ".join(f"{count} × {text}" for text, count in sorted(errors.items(), key=lambda item: (-item[1], item[0]))[:3])
    cure = _IN_FORMAT if counts.get("unparsable", 0) > counts.get("failed", 0) else ""
    return Reason(
        code="all_rollouts_failed",
        step="bootstrap",
        param="teacher",
        message=f"{_count(total, 'rollout')} of the teacher, 0 usable: {counts.get('failed', 0)} failed, "
        f"{counts.get('unparsable', 0)} unparsable{_undecided(counts)}{'. ' + worst if worst else ''}. Nothing was trained.{cure}",
        data={"counts": dict(counts), "errors": dict(errors)},
    )


def hopeless(n: int, error: str, teacher: str, rest: int) -> Reason:
    """The first examples all ended with one error: the others would too."""
    cure = _IN_FORMAT if error.startswith(_UNREADABLE) else ""
    return Reason(
        code="all_rollouts_failed",
        step="bootstrap",
        param="teacher",
        message=f"The first {n} examples of {teacher} all failed with the same error: {_one_line(error)}. "
        f"The job stopped before the other {_count(rest, 'example')}; nothing was trained.{cure}",
        data={"examples": n, "error": _one_line(error)},
    )


def smoke_test_failed(n: int, min_pass: int, kinds: Mapping[str, int], errors: Mapping[str, int], teacher: str) -> Reason:
    """Too few of the first examples passed."""
    over, passed = sum(kinds.values()), kinds.get("passed", 0)
    run = f"{passed} passed" if over == n else f"{over} were run and {passed} passed"
    rest = {kind: count for kind, count in kinds.items() if kind != "passed"}
    causes = ", ".join(f"{count} {_KINDS.get(kind, kind)}" for kind, count in sorted(rest.items(), key=lambda each: (-each[1], each[0])))
    commonest = sorted(errors.items(), key=lambda each: (-each[1], each[0]))[:3]
    worst = "; ".join(f"{count} × {_one_line(text)}" for text, count in commonest)
    advice = 'Look at its rejections; `"smoke_test": null` goes on all the same, and what was run is reused.'
    return Reason(
        code="smoke_test_failed",
        step="bootstrap",
        param="smoke_test",
        message=f"Of the first {n} examples of {teacher} {run}, at least {min_pass} must: {causes}{'. ' + worst if worst else ''}. "
        f"The job stopped before the others. {advice}",
        data={
            **{"n": n, "min_pass": min_pass, "examples": dict(kinds), "errors": {_one_line(text): count for text, count in commonest}},
            **{"advice": advice, "options": {"smoke_test": None}},
        },
    )


_KINDS = {
    "not_passed": "scored below the bar",
    "inconclusive": "without a verdict of the metric",
    "metric_failed": "on which the metric failed",
    "undecided": "that could not be run",
}


def _one_line(text: str) -> str:
    return " ".join(text.split())[:160]


def failed_examples(why: Mapping[str, int], total: int) -> str:
    """`3 of 640 examples failed: 2 timeout, 1 unparsable`, for a job that goes on without them. `why` maps the reason to its count."""
    causes = sorted(why.items(), key=lambda cause: (-cause[1], cause[0]))
    text = ", ".join(f"{count} {_CAUSES.get(code, code.replace('_', ' '))}" for code, count in causes)
    return f"{sum(why.values())} of {_count(total, 'example')} failed: {text}"


_CAUSES = {"time_limit": "timeout", "metric_failed": "on which the metric failed", "bad_request": "refused by the LM host"}


def _undecided(counts: Mapping[str, int]) -> str:
    return f", {counts['undecided']} could not be run" if counts.get("undecided") else ""


def _names(names: list[str]) -> str:
    return ("predictor " if len(names) == 1 else "predictors ") + ", ".join(f"`{name}`" for name in names)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
