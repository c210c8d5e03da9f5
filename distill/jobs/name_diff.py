"""Two lists of names side by side: what teacher and student have in common, and what only one of them has."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

NamePair = tuple[str | None, str | None]


def pair_names(ours: Sequence[str], theirs: Sequence[str]) -> list[NamePair]:
    """Equal names stand together, then those that are alike; what is left stands alone. In the order of `ours`, then of `theirs`."""
    left = [name for name in theirs if name not in ours]
    pairs: list[NamePair] = []
    for name in ours:
        close = [name] if name in theirs else difflib.get_close_matches(name, left, n=1, cutoff=0.6)
        pairs.append((name, close[0] if close else None))
        left = [other for other in left if other not in close]
    return [*pairs, *((None, name) for name in left)]


def two_columns(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Lines of two columns; a row whose sides differ is marked."""
    width = max(len(mine) for mine, _ in rows)
    for number, (mine, other) in enumerate(rows):
        yield f"{'!' if number and mine != other else ' '} {mine:<{width}}  {other}"
