"""Intervals around scores, and around the difference between two programs on the same examples. All at 95 %.

Sources:
- Wilson (1927), "Probable inference, the law of succession, and statistical inference".
- Bonett and Price (2012), "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data".
- McNemar (1947), "Note on the sampling error of the difference between correlated proportions", exact.
Why these and no resampling: `docs/decisions/0017-paired-intervals.md`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

CONFIDENCE = 0.95
FEWEST_PAIRS = 5
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def mean_interval(scores: Sequence[float]) -> Interval | None:
    """The mean score and its interval: Wilson's for scores in 0..1, Student's t for any other scale; None without scores.

    For scores between 0 and 1 that are not all 0 or 1, Wilson's interval is too wide rather than too narrow: no such score has a
    larger variance than a yes-or-no score of the same mean.
    """
    if not scores:
        return None
    if all(0.0 <= score <= 1.0 for score in scores):
        return _wilson(fmean(scores), len(scores))
    return _student(scores)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval | None:
    """Mean of `ours - theirs`, pair by pair, with its interval; None under 5 pairs.

    Yes-or-no scores use Bonett and Price's interval, which keeps a width when no pair differs; other scores use Student's t.
    Raises ValueError when the two differ in length.
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if len(differences) < FEWEST_PAIRS:
        return None
    if all(score in (0.0, 1.0) for score in (*ours, *theirs)):
        return _bonett_price(differences)
    return _student(differences)


def _wilson(share: float, n: int) -> Interval:
    spread = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    middle, scale = share + _Z**2 / (2 * n), 1 + _Z**2 / n
    return Interval(share, max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale))


def _bonett_price(differences: Sequence[float]) -> Interval:
    n = len(differences)
    won = (sum(d > 0 for d in differences) + 1) / (n + 2)
    lost = (sum(d < 0 for d in differences) + 1) / (n + 2)
    spread = _Z * math.sqrt((won + lost - (won - lost) ** 2) / (n + 2))
    return Interval(fmean(differences), max(-1.0, won - lost - spread), min(1.0, won - lost + spread))


def _student(values: Sequence[float]) -> Interval:
    mean = fmean(values)
    if len(values) < FEWEST_PAIRS:
        return Interval(mean, min(values), max(values))
    spread = _t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - spread, mean + spread)


def mcnemar(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The p-value of McNemar's exact test on yes-or-no scores: of the pairs that differ, each side is as likely to win.

    None for other scores, and when no pair differs. Raises ValueError when the two differ in length.
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    won, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    if not won + lost or any(score not in (0.0, 1.0) for score in (*ours, *theirs)):
        return None
    from scipy.stats import binomtest  # half a second that only the end of an evaluation needs

    return float(binomtest(won, won + lost, 0.5).pvalue)


def _t_quantile(freedom: int) -> float:
    from scipy.stats import t  # as above

    return float(t.ppf(0.5 + CONFIDENCE / 2, freedom))
