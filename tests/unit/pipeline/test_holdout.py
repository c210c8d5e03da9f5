from hypothesis import given
from hypothesis import strategies as st

from distill.pipeline.holdout import HoldoutRule, split


def rows(n: int) -> list[str]:
    return [f"v1:{i}" for i in range(n)]


class TestSplit:
    def test_under_a_hundred_rows_nothing_is_held_out(self) -> None:
        parts = split(rows(99), HoldoutRule())
        assert parts.holdout == ()
        assert parts.train == tuple(range(99))

    def test_a_hundred_rows_hold_out_fifty(self) -> None:
        assert len(split(rows(100), HoldoutRule()).holdout) == 50

    def test_many_rows_hold_out_a_fifth(self) -> None:
        assert 1900 < len(split(rows(10_000), HoldoutRule()).holdout) < 2100

    def test_asked_for_ten_rows_of_forty(self) -> None:
        parts = split(rows(40), HoldoutRule(n=10))
        assert len(parts.holdout) == 10
        assert sorted(parts.train + parts.holdout) == list(range(40))

    def test_a_small_fraction_of_few_rows_holds_out_at_least_one(self) -> None:
        assert len(split(rows(5), HoldoutRule(fraction=0.01)).holdout) == 1

    def test_zero_holds_out_nothing(self) -> None:
        assert split(rows(200), HoldoutRule(n=0)).holdout == ()
        assert split(rows(200), HoldoutRule(fraction=0.0)).holdout == ()

    def test_something_is_always_left_to_train_on(self) -> None:
        assert len(split(rows(5), HoldoutRule(n=50)).train) == 1

    @given(st.lists(st.integers(0, 30), min_size=1, max_size=300))
    def test_equal_inputs_never_stand_on_both_sides(self, values: list[int]) -> None:
        groups = [f"v1:{value}" for value in values]
        parts = split(groups, HoldoutRule(fraction=0.3))
        assert {groups[i] for i in parts.train}.isdisjoint(groups[i] for i in parts.holdout)

    @given(st.integers(100, 400), st.integers(1, 400))
    def test_a_growing_trainset_never_moves_a_row_into_the_holdout(self, n: int, more: int) -> None:
        before, after = split(rows(n), HoldoutRule()), split(rows(n + more), HoldoutRule())
        assert set(before.train).isdisjoint(after.holdout)
