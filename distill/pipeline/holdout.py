"""Which examples are kept away from training, so that a verdict means something."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

DEFAULT_FRACTION = 0.2
DEFAULT_FEWEST = 50
TOO_FEW_TO_SPLIT = 100
_SCALE = 2**64


@dataclass(frozen=True)
class HoldoutRule:
    """What the job asked for: a fraction, a number of rows, or neither."""

    fraction: float | None = None
    n: int | None = None

    @property
    def is_default(self) -> bool:
        return self.fraction is None and self.n is None


@dataclass(frozen=True)
class Split:
    """Row numbers (0-based, ascending) to train on and to hold out."""

    train: tuple[int, ...]
    holdout: tuple[int, ...]


def split(groups: Sequence[str], rule: HoldoutRule) -> Split:
    """Assign each row, given its group: rows of one group (the digest of a row's inputs) never stand on both sides.

    The default holds out 20 % of the rows and at least 50, and nothing under 100 rows. A row's place depends on the hash of its own group,
    so a growing trainset never moves a row from training into the holdout.
    """
    if rule.is_default and len(groups) < TOO_FEW_TO_SPLIT:
        return Split(tuple(range(len(groups))), ())
    held = _held_groups(groups, rule)
    return Split(
        tuple(i for i, group in enumerate(groups) if group not in held),
        tuple(i for i, group in enumerate(groups) if group in held),
    )


def _held_groups(groups: Sequence[str], rule: HoldoutRule) -> set[str]:
    fraction, fewest = _thresholds(rule)
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    held: set[str] = set()
    rows = 0
    for group in sorted(sizes, key=place):
        if (place(group) >= fraction and rows >= fewest) or len(held) == len(sizes) - 1:
            break
        held.add(group)
        rows += sizes[group]
    return held


def _thresholds(rule: HoldoutRule) -> tuple[float, int]:
    if rule.n is not None:
        return 0.0, rule.n
    if rule.fraction is not None:
        return rule.fraction, 1 if rule.fraction > 0 else 0
    return DEFAULT_FRACTION, DEFAULT_FEWEST


def place(group: str, salt: str = "holdout") -> float:
    """Where a group falls between 0 and 1; the same for ever."""
    return int.from_bytes(sha256(f"{salt}:{group}".encode()).digest()[:8], "big") / _SCALE
