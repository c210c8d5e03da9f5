"""Pure arithmetic of figures: rounds in, medians and ratios out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeVar

Better = Literal["higher", "lower"]
T = TypeVar("T")
_TAIL = 0.025


@dataclass(frozen=True)
class Ratio:
    """How many times better ours is: the median over rounds, and the worst and best round."""

    median: float
    low: float
    high: float


def ratio_of(ours: Sequence[float], other: Sequence[float], better: Better) -> Ratio | None:
    """Ratios round by round, never of sums or of medians: what slowed one round slowed both sides of it. None where a
    side of some round is 0: too little to be measured.

    Raises ValueError when the sides have not the same number of rounds, or none.
    """
    if len(ours) != len(other) or not ours:
        raise ValueError(f"{len(ours)} rounds of ours, {len(other)} of the other side")
    if not all((*ours, *other)):
        return None
    ratios = [a / b if better == "higher" else b / a for a, b in zip(ours, other, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, between neighbours in proportion. Raises ValueError for no values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True)
class Median:
    """Of some values, and the ends of its interval of 95 % or a little more."""

    median: float
    low: float
    high: float


def median_interval(values: Sequence[float]) -> Median:
    """By the sign test, for any distribution. Of fewer than six values it is from the least to the greatest. Raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    ordered, tail, outside = sorted(values), 0.0, 0
    while outside < len(ordered) // 2 and (tail := tail + math.comb(len(ordered), outside) / 2 ** len(ordered)) <= _TAIL:
        outside += 1
    beyond = max(0, outside - 1)
    return Median(median(ordered), ordered[beyond], ordered[-1 - beyond])


def interleave(rounds: int, sides: Sequence[Callable[[], T]]) -> list[list[T]]:
    """Call every side once a round (A B, A B, …); one list of results a side."""
    results: list[list[T]] = [[] for _ in sides]
    for _ in range(rounds):
        for found, side in zip(results, sides, strict=True):
            found.append(side())
    return results
