import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.pipeline.keys import Key
from distill.pipeline.prepare import Filter, Row, Settled, passes, settle
from tests.support.shelves import MemoryShelf, row

KEY = Key("v1:s", "", "student", ("classify", "reply"))


def both(n: int) -> list[Row]:
    return [row(name, i) for i in range(n) for name in ("classify", "reply")]


def settled(rows: list[Row], seed: int = 0, **keep: Any) -> Settled:
    return settle(KEY, rows, Filter(**keep), seed, MemoryShelf())


def digests(made: Settled) -> list[str]:
    return [each.digest for each in made.rows]


class TestSettle:
    def test_any_order_of_arrival_gives_the_same_order(self) -> None:
        rows = both(120)
        mixed = random.Random(5).sample(rows, len(rows))
        assert digests(settled(rows, 3)) == digests(settled(mixed, 3))

    def test_another_seed_gives_another_order_of_the_same_rows(self) -> None:
        one, two = digests(settled(both(50), 1)), digests(settled(both(50), 2))
        assert one != two
        assert sorted(one) == sorted(two)

    def test_equal_rows_are_kept_once_and_counted(self) -> None:
        rows = [row("classify", i, digest="same") for i in range(5)]
        made = settled(rows)
        assert digests(made) == ["same"]
        assert made.left_out == {("classify", "duplicate"): 4}
        assert len(digests(settled(rows, dedup=False))) == 5

    def test_of_equal_rows_the_first_example_is_kept(self) -> None:
        rows = [row("classify", i, digest="same") for i in (4, 2, 3)]
        assert [each.order[1] for each in settled(rows).rows] == [2]

    def test_top_k_keeps_the_best_traces_of_equal_inputs_whole(self) -> None:
        rows = [row(p, 0, n=n, score=s) for n, s in enumerate([0.8, 1.0, 0.9]) for p in ("classify", "reply")]
        made = settled(rows, top_k=1)
        assert {each.trace_digest for each in made.rows} == {"t0.1"}
        assert len(digests(made)) == 2
        assert made.left_out == {("classify", "top_k"): 2, ("reply", "top_k"): 2}

    def test_equally_good_traces_count_in_the_order_of_their_rollouts(self) -> None:
        rows = [row("classify", 0, n=n) for n in (3, 1, 2)]
        assert {each.trace_digest for each in settled(rows, top_k=2).rows} == {"t0.1", "t0.2"}

    def test_top_k_counts_different_answers(self) -> None:
        rows = [row("classify", 0, n=0, digest="a"), row("classify", 0, n=1, digest="a"), row("classify", 0, n=2, digest="b")]
        assert sorted(digests(settled(rows, top_k=2))) == ["a", "b"]
        assert digests(settled(rows, top_k=2, dedup=False)) == ["a", "a"]

    def test_a_trace_that_two_examples_share_ranks_by_its_better_score(self) -> None:
        shared = row("classify", 0, n=0, score=0.5)
        rows = [shared, shared._replace(score=1.0, order=(0, 9, 0, 0)), row("classify", 0, n=1, score=0.8)]
        assert {each.trace_digest for each in settled(rows, top_k=1).rows} == {"t0.0"}

    def test_max_rows_caps_a_key_exactly(self) -> None:
        made = settled(both(90), max_rows=20)
        assert len(digests(made)) == 20
        assert sum(made.left_out.values()) == 160

    def test_max_rows_counts_after_equal_rows_have_gone(self) -> None:
        rows = [row("classify", i, digest=f"d{i % 7}") for i in range(70)]
        assert len(set(digests(settled(rows, max_rows=7)))) == 7

    @given(
        st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 3), st.sampled_from([0.5, 0.8, 1.0])), max_size=60),
        st.sampled_from([None, 1, 2]),
        st.sampled_from([None, 5]),
        st.booleans(),
    )
    def test_every_row_is_kept_or_counted(
        self, drawn: list[tuple[int, int, int, float]], top_k: int | None, max_rows: int | None, dedup: bool
    ) -> None:
        rows = list({(e, n): row("classify", e, n=n, digest=f"d{d}", score=s) for e, n, d, s in drawn}.values())
        made = settled(rows, top_k=top_k, max_rows=max_rows, dedup=dedup)
        kept = list(made.rows)
        assert len(kept) + sum(made.left_out.values()) == len(rows)
        assert max_rows is None or len(kept) <= max_rows
        assert not dedup or len(set(digests(made))) == len(kept)
        for example in {each.inputs for each in kept} if dedup else ():
            assert top_k is None or len({each.digest for each in kept if each.inputs == example}) <= top_k


class TestPasses:
    @pytest.mark.parametrize(
        ("score", "expected"),
        [
            ({"status": "ok", "value": 1.0}, True),
            ({"status": "ok", "value": 0.79}, False),
            ({"status": "inconclusive", "value": None}, False),
            ({"status": "failed", "value": None}, False),
            (None, False),
        ],
    )
    def test_the_bar_decides(self, score: Any, expected: bool) -> None:
        assert passes("ok", score, 0.8, scored=True) is expected

    def test_without_a_metric_every_answer_passes(self) -> None:
        assert passes("ok", None, 1.0, scored=False)
        assert not passes("unparsable", None, 1.0, scored=False)
