"""A batch of rows as one sequence: every shared prefix once, then what each row has of its own.

``[prefix 1 | prefix 2 | … | rest of row 1 | rest of row 2 | …]``, without padding. Positions restart after the prefix, and
attention (engines.trainer.attention) lets a row see its prefix and itself only, so each token gets what it would get in a
row of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from engines.trainer.grouping import prefix_length
from engines.trainer.rows import EncodedRow


@dataclass(frozen=True)
class Group:
    """Rows in a pass that share a prefix of ``prefix`` tokens (0: nothing shared)."""

    prefix: int
    rows: tuple[EncodedRow, ...]


@dataclass(frozen=True)
class Layout:
    """Where prefixes and rows lie in the packed sequence of S tokens.

    ``prefixes[g]`` and ``counts[g]``: prefix length and number of rows of group g. ``n_rows`` rests are padded to ``width``
    tokens for attention: ``to_padded`` (n_rows * width) points from padded places into the packed rests (padding points at
    token 0 of the rests, which no real token sees), ``to_packed`` from packed rests into padded places; both are None where
    all rests are equally long.
    """

    prefixes: tuple[int, ...]
    counts: tuple[int, ...]
    n_rows: int
    width: int
    to_padded: torch.Tensor | None
    to_packed: torch.Tensor | None

    @property
    def n_prefix_tokens(self) -> int:
        """Length of all prefixes together: where the first rest starts."""
        return sum(self.prefixes)

    def to(self, device: torch.device) -> Layout:
        """The same layout with its index tensors on ``device``."""
        if self.to_padded is None or self.to_packed is None:
            return self
        return Layout(self.prefixes, self.counts, self.n_rows, self.width, self.to_padded.to(device), self.to_packed.to(device))


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass over ``rows``: ids and positions (1, S), the N places whose logits are needed, N targets."""

    rows: tuple[EncodedRow, ...]
    input_ids: torch.Tensor
    position_ids: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor
    layout: Layout

    def to(self, device: torch.device) -> Pass:
        """The same pass on ``device``; DataLoader and accelerate call it by this name."""
        ids, positions = self.input_ids.to(device), self.position_ids.to(device)
        return Pass(self.rows, ids, positions, self.places.to(device), self.targets.to(device), self.layout.to(device))


@dataclass(frozen=True)
class Batch:
    """The passes of one training step, and its sums: targets, tokens of whole rows, tokens left out by sharing."""

    passes: tuple[Pass, ...]
    n_targets: int
    n_tokens: int
    n_shared: int

    def to(self, device: torch.device, **_: Any) -> Batch:
        """The same batch on ``device``."""
        return Batch(tuple(one.to(device) for one in self.passes), self.n_targets, self.n_tokens, self.n_shared)


class Collator:
    """Rows to a Batch whose passes hold at most ``max_tokens`` packed tokens each (one row always fits).

    Takes pairs of prefix group and row. ``share=False`` leaves every row whole.
    """

    def __init__(self, max_tokens: int, *, share: bool = True) -> None:
        self._max_tokens = max_tokens
        self._share = share

    def __call__(self, rows: Sequence[tuple[int, EncodedRow]]) -> Batch:
        groups = [Group(prefix, members) for prefix, members in self._groups(rows)]
        passes = tuple(pack(chunk) for chunk in self._chunks(groups))
        n_tokens = sum(len(row.ids) for _, row in rows)
        computed = sum(one.input_ids.shape[1] for one in passes)
        return Batch(passes, sum(row.n_targets for _, row in rows), n_tokens, n_tokens - computed)

    def _groups(self, rows: Sequence[tuple[int, EncodedRow]]) -> Iterator[tuple[int, tuple[EncodedRow, ...]]]:
        for _, members in groupby(sorted(rows, key=lambda pair: pair[0]), key=lambda pair: pair[0]):
            group = tuple(row for _, row in members)
            yield (prefix_length(group) if self._share and len(group) > 1 else 0), group

    def _chunks(self, groups: Sequence[Group]) -> Iterator[list[Group]]:
        chunk: dict[int, list[EncodedRow]] = {}
        used = 0
        for number, group in enumerate(groups):
            for row in group.rows:
                cost = len(row.ids) - (group.prefix if number in chunk else 0)
                if chunk and used + cost > self._max_tokens:
                    yield [Group(groups[n].prefix, tuple(members)) for n, members in chunk.items()]
                    chunk, used, cost = {}, 0, len(row.ids)
                chunk.setdefault(number, []).append(row)
                used += cost
        yield [Group(groups[n].prefix, tuple(members)) for n, members in chunk.items()]


def pack(groups: Sequence[Group]) -> Pass:
    """One pass over ``groups``, whose prefixes and rests are laid out in order."""
    ids: list[int] = [token for group in groups for token in group.rows[0].ids[: group.prefix]]
    positions = [position for group in groups for position in range(group.prefix)]
    places: list[int] = []
    targets: list[int] = []
    for group in groups:
        for row in group.rows:
            first = len(ids) - group.prefix
            places += range(first + row.prompt_length - 1, first + len(row.ids) - 1)
            targets += row.ids[row.prompt_length :]
            ids += row.ids[group.prefix :]
            positions += range(group.prefix, len(row.ids))
    rows = tuple(row for group in groups for row in group.rows)
    return Pass(rows, torch.tensor([ids]), torch.tensor([positions]), torch.tensor(places), torch.tensor(targets), _layout(groups))


def _layout(groups: Sequence[Group]) -> Layout:
    rests = [len(row.ids) - group.prefix for group in groups for row in group.rows]
    prefixes, counts = tuple(group.prefix for group in groups), tuple(len(group.rows) for group in groups)
    width = max(rests)
    if min(rests) == width:
        return Layout(prefixes, counts, len(rests), width, None, None)
    starts = [sum(rests[:number]) for number in range(len(rests))]
    to_padded = [start + at if at < rest else 0 for start, rest in zip(starts, rests, strict=True) for at in range(width)]
    to_packed = [number * width + at for number, rest in enumerate(rests) for at in range(rest)]
    return Layout(prefixes, counts, len(rests), width, torch.tensor(to_padded), torch.tensor(to_packed))
