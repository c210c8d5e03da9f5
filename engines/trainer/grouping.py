"""Which rows share a prompt prefix, and batches that keep such rows together.

Sorted by tokens, rows with a common prefix are neighbours, so every possible group is a range of the sorted rows: the node
of a prefix tree. A group of ``n`` rows with a common prefix of ``p`` tokens, trained in batches of ``b``, computes the
prefix once a batch and saves ``p * (n - ceil(n / b))`` tokens; the tree is cut where the sum of the savings is largest.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

from engines.trainer.rows import EncodedRow

# Rows that are prefixes of each other make a chain instead of a tree; below this depth a node is not split further.
MAX_DEPTH = 64
# Sorting by length inside windows of this many batches keeps batches even in length and the order still random.
WINDOW_BATCHES = 8


def prefix_length(rows: Sequence[EncodedRow]) -> int:
    """Tokens that all ``rows`` start with, at most up to each prompt's last token: that one predicts the completion."""
    shortest, longest = min(row.ids for row in rows), max(row.ids for row in rows)
    limit = min(row.prompt_length for row in rows) - 1
    return _common(shortest, longest, max(limit, 0))


def prefix_groups(rows: Sequence[EncodedRow], batch_size: int) -> list[list[int]]:
    """Indexes of ``rows`` in groups that share a prefix worth computing once a batch; every index is in one group."""
    order = sorted(range(len(rows)), key=lambda index: rows[index].ids)
    if not order:
        return []
    _, ranges = _best_cut(rows, order, batch_size, 0)
    return [list(group) for group in ranges]


def _best_cut(rows: Sequence[EncodedRow], order: list[int], batch_size: int, depth: int) -> tuple[int, list[list[int]]]:
    """Tokens saved by the best way to cut the sorted rows ``order``, and that way's groups."""
    shared = prefix_length([rows[index] for index in order])
    saved = shared * (len(order) - math.ceil(len(order) / batch_size))
    if len(order) < 2 or depth >= MAX_DEPTH:
        return saved, [order]
    children = _split(rows, order)
    if len(children) < 2:
        return saved, [order]
    cuts = [_best_cut(rows, child, batch_size, depth + 1) for child in children]
    apart = sum(tokens for tokens, _ in cuts)
    return (apart, [group for _, groups in cuts for group in groups]) if apart > saved else (saved, [order])


def _split(rows: Sequence[EncodedRow], order: list[int]) -> list[list[int]]:
    """The node's children: neighbours stay together while they agree on the token after the whole node's prefix."""
    first, last = rows[order[0]].ids, rows[order[-1]].ids
    at = _common(first, last, min(len(first), len(last)))
    children = [[order[0]]]
    for before, after in pairwise(order):
        if rows[before].ids[at : at + 1] == rows[after].ids[at : at + 1]:
            children[-1].append(after)
        else:
            children.append([after])
    return children


def _common(one: Sequence[int], other: Sequence[int], limit: int) -> int:
    for position in range(min(limit, len(one), len(other))):
        if one[position] != other[position]:
            return position
    return min(limit, len(one), len(other))


class PrefixBatchSampler:
    """Batches of row indexes, other ones each epoch, the same for the same ``seed``: for DataLoader's ``batch_sampler``.

    Rows of a group fill batches of their own, alike in length; what is left of all groups fills the last batches together.
    The number of batches is ``ceil(rows / batch_size)`` in every epoch.
    """

    def __init__(self, rows: Sequence[EncodedRow], batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self.drop_last = False
        self._rows = rows
        self._lengths = [len(row.ids) for row in rows]
        self._groups = prefix_groups(rows, batch_size)
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose order the next iteration gives; called by the training loop."""
        self._epoch = epoch

    def paired(self) -> list[tuple[int, EncodedRow]]:
        """The rows in their own order, each with the number of its prefix group."""
        group_of = {index: number for number, group in enumerate(self._groups) for index in group}
        return [(group_of[index], row) for index, row in enumerate(self._rows)]

    def __len__(self) -> int:
        return math.ceil(len(self._lengths) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = random.Random(f"{self._seed}/{self._epoch}")  # noqa: S311 - an order of rows, not a secret
        batches: list[list[int]] = []
        left: list[int] = []
        for group in self._groups:
            full, rest = self._cut(group, rng)
            batches += full
            left += rest
        batches += [left[start : start + self.batch_size] for start in range(0, len(left), self.batch_size)]
        rng.shuffle(batches)
        return iter(batches)

    def _cut(self, group: list[int], rng: random.Random) -> tuple[list[list[int]], list[int]]:
        """Full batches of one group and the rows that did not fill one."""
        order = group[:]
        rng.shuffle(order)
        whole = len(order) - len(order) % self.batch_size
        full, rest = order[:whole], order[whole:]
        window = self.batch_size * WINDOW_BATCHES
        for start in range(0, whole, window):
            full[start : start + window] = sorted(full[start : start + window], key=self._lengths.__getitem__)
        return [full[start : start + self.batch_size] for start in range(0, whole, self.batch_size)], rest
