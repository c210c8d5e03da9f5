"""Which examples are kept away from training, so that a verdict means something."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

DEFAULT_FRACTION = 0.2
TOO_FEW_TO_SPLIT = 100
FEW = 50
"""With fewer held-out rows a verdict is rarely anything but inconclusive."""
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
    """Assign each row, given its group: rows of one group (equal inputs, or an equal value of `group_by`) never stand on both sides.

    The default holds out 20 % of the rows, and nothing under 100 rows. With a fraction, a group's side depends on its own hash alone. So
    a trainset may grow for ever: a row that was held out is never trained on. (The other way, rows that were trained on while there were
    fewer than 100, or the very last that was left to train on, may be held out later.)
    With `n` the rows with the lowest hashes are held out, at least so many: rows that are added may take the place of some of them.
    """
    if rule.is_default and len(groups) < TOO_FEW_TO_SPLIT:
        return Split(tuple(range(len(groups))), ())
    held = _lowest(groups, rule.n) if rule.n is not None else _under(groups, DEFAULT_FRACTION if rule.fraction is None else rule.fraction)
    return Split(
        tuple(i for i, group in enumerate(groups) if group not in held),
        tuple(i for i, group in enumerate(groups) if group in held),
    )


def without_held_inputs(sides: Split, inputs: Sequence[str]) -> Split:
    """Leave out of training what has the inputs of a held-out row: where rows are grouped by a field, two groups may hold equal inputs."""
    held = {inputs[i] for i in sides.holdout}
    return Split(tuple(i for i in sides.train if inputs[i] not in held), sides.holdout)


def _under(groups: Sequence[str], fraction: float) -> set[str]:
    """Never every group: the one with the highest hash is trained on."""
    last = max(groups, key=place, default=None)
    return {group for group in set(groups) if place(group) < fraction and group != last}


def _lowest(groups: Sequence[str], n: int) -> set[str]:
    sizes = Counter(groups)
    held: set[str] = set()
    rows = 0
    for group in sorted(sizes, key=place)[: len(sizes) - 1]:
        if rows >= n:
            break
        held.add(group)
        rows += sizes[group]
    return held


def place(group: str, salt: str = "holdout") -> float:
    """Where a group falls between 0 and 1; the same for ever."""
    return int.from_bytes(sha256(f"{salt}:{group}".encode()).digest()[:8], "big") / _SCALE


def numbered(rows: Iterable[Mapping[str, Any]], numbers: Iterable[int], start: int = 0) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows with these numbers (0-based, ascending), with them; `start` is the number of the first row."""
    wanted = iter(numbers)
    at = next(wanted, None)
    for number, row in enumerate(rows, start):
        if at is None:
            return
        if number == at:
            yield number, row
            at = next(wanted, None)
