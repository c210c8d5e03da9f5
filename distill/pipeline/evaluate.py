"""What held-out examples say: a score a role, and whether the compiled program is better."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from math import ceil
from statistics import fmean, median
from typing import Any

from distill.pipeline.intervals import Interval, mcnemar, mean_interval, paired_difference

AGAINST = ("incumbent", "baseline_constrained", "baseline")


class Verdict(StrEnum):
    """`better` and `worse` only when the whole 95 % interval of the difference lies on one side of zero."""

    BETTER = "better"
    WORSE = "worse"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Outcome:
    """One held-out example under one role. `score` is None when the metric could not decide; such examples are not counted."""

    example: int
    score: float | None
    status: str
    seconds: float = 0.0
    usage: Mapping[str, float | None] = field(default_factory=dict)


def outcome(example: int, trace: Mapping[str, Any], score: Mapping[str, Any] | None) -> Outcome:
    """Read a stored trace and its score. A failed or unparsable answer scores 0; so does a metric that broke on an answer."""
    return Outcome(example, _score(trace, score), trace["status"], float(trace.get("seconds") or 0.0), trace.get("usage") or {})


def _score(trace: Mapping[str, Any], score: Mapping[str, Any] | None) -> float | None:
    if trace["status"] != "ok":
        return 0.0
    if score is None or score["status"] == "inconclusive":
        return None
    return float(score["value"]) if score["status"] == "ok" and score["value"] is not None else 0.0


def role_report(outcomes: Sequence[Outcome], undecided: int = 0) -> dict[str, Any]:
    """Score with its interval, what went wrong, time and tokens of one role; `undecided` examples could not be run and are not in it."""
    interval = mean_interval([o.score for o in outcomes if o.score is not None])
    return {
        **_rounded(interval),
        "n": len(outcomes),
        "undecided": undecided,
        "scored": sum(o.score is not None for o in outcomes),
        "parse_failures": sum(o.status == "unparsable" for o in outcomes),
        "failures": sum(o.status == "failed" for o in outcomes),
        "latency_seconds": _latency(outcomes),
        "usage": _usage(outcomes),
        "per_call": _per_call(outcomes),
    }


def evaluation(
    by_role: Mapping[str, Sequence[Outcome]],
    metric: str,
    incumbent: Mapping[str, Any] | None = None,
    undecided: Mapping[str, int] | None = None,
) -> dict[str, Any] | None:
    """The job's `evaluation`; None when nothing was held out. `undecided` counts by role the examples that could not be run."""
    if not any(by_role.values()):
        return None
    report: dict[str, Any] = {"n": max(len(outcomes) for outcomes in by_role.values()), "metric": metric}
    report.update({role: role_report(outcomes, (undecided or {}).get(role, 0)) for role, outcomes in by_role.items()})
    if incumbent is not None and "incumbent" in report:
        report["incumbent"] = {**incumbent, **report["incumbent"]}
    report["delta"] = delta(by_role)
    return report


def delta(by_role: Mapping[str, Sequence[Outcome]]) -> dict[str, Any] | None:
    """`compiled` minus the one to beat, over the examples that both have a score for; None when either is missing.

    `fixes` are the examples that only `compiled` gets (more) right, `regressions` those that it gets (more) wrong. The verdict comes from
    the interval alone; `p_value` (McNemar's exact test, of yes-or-no scores) is there for those who want it.
    """
    against = next((role for role in AGAINST if by_role.get(role)), None)
    if against is None or not by_role.get("compiled"):
        return None
    ours, theirs = _paired(by_role["compiled"], by_role[against])
    p_value = mcnemar(ours, theirs)
    return {
        "against": against,
        **_difference(ours, theirs),
        "fixes": sum(a > b for a, b in zip(ours, theirs, strict=True)),
        "regressions": sum(a < b for a, b in zip(ours, theirs, strict=True)),
        "p_value": None if p_value is None else round(p_value, 6),
    }


def reference_report(scores: Mapping[int, float], compiled: Sequence[Outcome]) -> dict[str, Any]:
    """The score of answers that ask no model, and how the compiled program compares over the examples that both have a score for."""
    ours, theirs = _paired(compiled, [Outcome(example, score, "ok") for example, score in scores.items()])
    return {**_rounded(mean_interval(list(scores.values()))), "n": len(scores), "delta": _difference(ours, theirs)}


def _difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    difference = paired_difference(ours, theirs)
    return {"pairs": len(ours), **_rounded(difference, "value"), "verdict": str(verdict(difference))}


def verdict(difference: Interval | None) -> Verdict:
    if difference is None or difference.low <= 0.0 <= difference.high:
        return Verdict.INCONCLUSIVE
    return Verdict.BETTER if difference.low > 0 else Verdict.WORSE


def _paired(ours: Iterable[Outcome], theirs: Iterable[Outcome]) -> tuple[list[float], list[float]]:
    other = {o.example: o.score for o in theirs if o.score is not None}
    pairs = [(o.score, other[o.example]) for o in ours if o.score is not None and o.example in other]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _rounded(interval: Interval | None, name: str = "score") -> dict[str, float | None]:
    values = asdict(interval) if interval else {"value": None, "low": None, "high": None}
    return {name if key == "value" else key: None if value is None else round(value, 4) for key, value in values.items()}


def _latency(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    seconds = sorted(o.seconds for o in outcomes if o.status != "failed")
    if not seconds:
        return dict.fromkeys(("mean", "median", "p95"))
    figures = {"mean": fmean(seconds), "median": median(seconds), "p95": seconds[ceil(0.95 * len(seconds)) - 1]}
    return {name: round(value, 4) for name, value in figures.items()}


def _usage(outcomes: Iterable[Outcome]) -> dict[str, int]:
    total: dict[str, int] = {}
    for item in outcomes:
        for name, count in item.usage.items():
            if name != "usd":
                total[name] = total.get(name, 0) + int(count or 0)
    return total


def _per_call(outcomes: Sequence[Outcome]) -> dict[str, float | None] | None:
    """Mean tokens and price of a call; None without calls. No price where that of some call is unknown."""
    total = _usage(outcomes)
    calls = total.get("calls", 0)
    if not calls:
        return None
    tokens = {name: round(total.get(name, 0) / calls, 1) for name in ("prompt_tokens", "completion_tokens")}
    prices = [o.usage.get("usd") for o in outcomes if o.usage.get("calls")]
    known = [price for price in prices if price is not None]
    return {**tokens, "usd": float(f"{sum(known) / calls:.4g}") if len(known) == len(prices) else None}
