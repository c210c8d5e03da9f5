"""Rows with a common prompt prefix end up in the same batches."""

from __future__ import annotations

import random

from engines.trainer.grouping import PrefixBatchSampler, prefix_groups, prefix_length
from engines.trainer.rows import EncodedRow


def rows_with(prefix: tuple[int, ...], count: int, seed: int) -> list[EncodedRow]:
    rng = random.Random(seed)
    tails = [tuple(rng.randrange(100, 200) for _ in range(rng.randint(4, 20))) for _ in range(count)]
    return [EncodedRow((*prefix, *tail), len(prefix) + len(tail) - 2) for tail in tails]


ROWS = [*rows_with(tuple(range(50)), 20, 0), *rows_with(tuple(range(60, 90)), 13, 1)]


class TestPrefixGroups:
    def test_each_prefix_is_a_group(self) -> None:
        assert sorted(sorted(group) for group in prefix_groups(ROWS, 4)) == [list(range(20)), list(range(20, 33))]

    def test_a_chance_match_does_not_split_a_group(self) -> None:
        rows = [EncodedRow((*range(50), 100 + number % 3, number, 9), 52) for number in range(16)]
        assert [len(group) for group in prefix_groups(rows, 8)] == [16]

    def test_chain_of_prefixes(self) -> None:
        rows = [EncodedRow((*range(length), 500, 501), length + 1) for length in range(1, 400)]
        assert sum(len(group) for group in prefix_groups(rows, 8)) == len(rows)

    def test_prefix_ends_before_the_last_prompt_token(self) -> None:
        assert prefix_length([EncodedRow((1, 2, 3, 4), 3), EncodedRow((1, 2, 3, 5), 3)]) == 2


class TestPrefixBatchSampler:
    def test_every_row_once_an_epoch(self) -> None:
        sampler = PrefixBatchSampler(ROWS, 4, seed=1)
        batches = list(sampler)
        assert sorted(index for batch in batches for index in batch) == list(range(33))
        assert len(batches) == len(sampler) == 9

    def test_most_batches_hold_one_group(self) -> None:
        mixed = [batch for batch in PrefixBatchSampler(ROWS, 4, seed=1) if len({index < 20 for index in batch}) == 2]
        assert len(mixed) <= 1

    def test_order_depends_on_seed_and_epoch_only(self) -> None:
        one, same, other = (PrefixBatchSampler(ROWS, 4, seed=seed) for seed in (1, 1, 2))
        first = list(one)
        assert first == list(same)
        assert first != list(other)
        one.set_epoch(1)
        assert first != list(one)
