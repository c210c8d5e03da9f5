"""Which of a key's rows watch its training instead of being trained on."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from distill.pipeline.holdout import place
from distill.pipeline.prepare import Row, Shelf

VALIDATION_FRACTION = 0.1
FEWEST_ROWS_TO_VALIDATE = 50
FEWEST_ROWS_TO_WATCH = 2
"""When early stopping is asked for: it needs rows that are not trained on."""
MOST_VALIDATION_ROWS = 256
_POOL = ""
"""The stratum of rows without a label; and of all rows where no label stands in two groups."""


class _Group(NamedTuple):
    name: str
    size: int
    stratum: str


def validation_groups(rows: Iterable[Row], shelf: Shelf, fewest: int = FEWEST_ROWS_TO_VALIDATE) -> frozenset[str]:
    """The groups whose rows watch the training: about a tenth of the rows, at least 1 and at most 256; none under `fewest` rows.

    Labels have their share on both sides, as far as groups stay whole: a group counts for the label that most of its rows have.
    """
    by_place = shelf.sort(rows, lambda row: (place(row.group, "validation"), row.group, row.order))
    sizes: Counter[str] = Counter()
    members: Counter[str] = Counter()
    for group in _groups(by_place):
        sizes[group.stratum] += group.size
        members[group.stratum] += 1
    total = sum(sizes.values())
    if total < fewest:
        return frozenset()
    wanted = max(1, min(MOST_VALIDATION_ROWS, round(total * VALIDATION_FRACTION)))
    pooled = frozenset(members) if max(members.values()) == 1 else frozenset[str]()
    return frozenset(_choose(_groups(by_place, pooled), _pool(sizes, pooled), _pool(members, pooled), wanted))


def _groups(rows: Iterable[Row], pooled: Iterable[str] = ()) -> Iterator[_Group]:
    """Rows of one group stand together."""
    for name, some in groupby(rows, key=lambda row: row.group):
        labels: Counter[str] = Counter(_label(row) for row in some)
        size = labels.total()
        labels.pop(_POOL, None)
        stratum = min(labels, key=lambda label: (-labels[label], label)) if labels else _POOL
        yield _Group(name, size, _POOL if stratum in pooled else stratum)


def _label(row: Row) -> str:
    """A row's first label, kept apart by predictor."""
    return next((f"{row.predictor}\n{value}" for value in row.labels.values()), _POOL)


def _pool(counts: Mapping[str, int], pooled: Iterable[str]) -> Counter[str]:
    made: Counter[str] = Counter()
    for stratum, count in counts.items():
        made[_POOL if stratum in pooled else stratum] += count
    return made


def _choose(groups: Iterable[_Group], sizes: Counter[str], members: Counter[str], wanted: int) -> Iterator[str]:
    """Groups in their order while their stratum lacks rows; the last group of a stratum is trained on."""
    quotas = _quotas({stratum: size for stratum, size in sizes.items() if members[stratum] > 1}, wanted)
    taken: Counter[str] = Counter()
    for group in groups:
        lacks = taken[group.stratum] < quotas.get(group.stratum, 0)
        if lacks and members[group.stratum] > 1 and taken.total() + group.size <= 2 * wanted:
            taken[group.stratum] += group.size
            members[group.stratum] -= 1
            yield group.name


def _quotas(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """`wanted` rows divided by size: whole parts first, what is left to the largest remainders."""
    total = sum(sizes.values())
    shares = {stratum: wanted * size / total for stratum, size in sizes.items()}
    quotas = {stratum: int(share) for stratum, share in shares.items()}
    rest = wanted - sum(quotas.values()) if shares else 0
    for stratum in sorted(shares, key=lambda each: (quotas[each] - shares[each], each))[:rest]:
        quotas[stratum] += 1
    return quotas
