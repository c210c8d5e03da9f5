import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.pipeline.holdout import HoldoutRule, Split, numbered, split, without_held_inputs


def rows(n: int) -> list[str]:
    return [f"v1:{i}" for i in range(n)]


class TestSplit:
    def test_under_a_hundred_rows_nothing_is_held_out(self) -> None:
        parts = split(rows(99), HoldoutRule())
        assert parts.holdout == ()
        assert parts.train == tuple(range(99))

    def test_a_hundred_rows_hold_out_about_a_fifth(self) -> None:
        assert 10 <= len(split(rows(100), HoldoutRule()).holdout) <= 30

    def test_many_rows_hold_out_a_fifth(self) -> None:
        assert 1900 < len(split(rows(10_000), HoldoutRule()).holdout) < 2100

    def test_asked_for_ten_rows_of_forty(self) -> None:
        parts = split(rows(40), HoldoutRule(n=10))
        assert len(parts.holdout) == 10
        assert sorted(parts.train + parts.holdout) == list(range(40))

    def test_a_small_fraction_of_few_rows_may_hold_out_nothing(self) -> None:
        assert split(rows(5), HoldoutRule(fraction=0.01)).holdout == ()

    def test_zero_holds_out_nothing(self) -> None:
        assert split(rows(200), HoldoutRule(n=0)).holdout == ()
        assert split(rows(200), HoldoutRule(fraction=0.0)).holdout == ()

    def test_something_is_always_left_to_train_on(self) -> None:
        assert len(split(rows(5), HoldoutRule(n=50)).train) == 1
        assert len(split(rows(5), HoldoutRule(fraction=0.999)).train) == 1
        assert split(rows(1), HoldoutRule(fraction=0.999)).train == (0,)

    @given(st.lists(st.integers(0, 30), min_size=1, max_size=300))
    def test_equal_inputs_never_stand_on_both_sides(self, values: list[int]) -> None:
        groups = [f"v1:{value}" for value in values]
        parts = split(groups, HoldoutRule(fraction=0.3))
        assert {groups[i] for i in parts.train}.isdisjoint(groups[i] for i in parts.holdout)

    @given(
        st.lists(st.integers(0, 500), max_size=300), st.lists(st.integers(0, 500), max_size=300), st.sampled_from([None, 0.01, 0.5, 0.99])
    )
    def test_a_growing_trainset_never_moves_a_held_out_row_into_training(
        self, first: list[int], more: list[int], fraction: float | None
    ) -> None:
        groups = [f"v1:{value}" for value in (*first, *more)]
        rule = HoldoutRule(fraction=fraction)
        before, after = split(groups[: len(first)], rule), split(groups, rule)
        assert {groups[i] for i in before.holdout} <= {groups[i] for i in after.holdout}

    @given(st.integers(100, 400), st.integers(1, 400))
    def test_from_a_hundred_rows_on_no_row_ever_changes_its_side(self, n: int, more: int) -> None:
        before, after = split(rows(n), HoldoutRule()), split(rows(n + more), HoldoutRule())
        assert set(before.train) <= set(after.train)
        assert set(before.holdout) <= set(after.holdout)

    def test_a_number_of_rows_is_no_fixed_set_when_rows_are_added(self) -> None:
        before, after = split(rows(40), HoldoutRule(n=10)), split(rows(80), HoldoutRule(n=10))
        assert set(before.holdout) & set(after.train)


class TestHeldInputs:
    def test_rows_with_the_inputs_of_held_out_rows_are_not_trained_on(self) -> None:
        assert without_held_inputs(Split((0, 1, 2), (3, 4)), ["hello", "a", "b", "hello", "c"]) == Split((1, 2), (3, 4))


class TestNumbered:
    @pytest.mark.parametrize(("numbers", "expected"), [([1, 3], ["b", "d"]), ([], []), ([0], ["a"]), ([3, 9], ["d"])])
    def test_picks_in_order(self, numbers: list[int], expected: list[str]) -> None:
        picked = list(numbered(({"x": letter} for letter in "abcd"), numbers))
        assert [row["x"] for _, row in picked] == expected
        assert [number for number, _ in picked] == [number for number in numbers if number < 4]
