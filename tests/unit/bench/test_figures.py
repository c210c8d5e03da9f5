"""Ratios of rounds, percentiles, and the order in which sides are measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import interleave, median_interval, percentile, ratio_of

rates = st.floats(min_value=0.001, max_value=1e6)


class TestRatio:
    def test_it_is_the_median_of_the_rounds_not_the_ratio_of_the_medians(self) -> None:
        # A neighbour slowed the second round to a tenth, for both sides alike.
        found = ratio_of([20.0, 2.0, 30.0], [10.0, 1.0, 10.0], "higher")
        assert found is not None
        assert (found.median, found.low, found.high) == (2.0, 2.0, 3.0)

    def test_where_less_is_better_it_says_how_many_times_less(self) -> None:
        found = ratio_of([2.0], [6.0], "lower")
        assert found is not None
        assert found.median == 3.0

    @given(st.lists(st.tuples(rates, rates), min_size=1, max_size=9))
    def test_equal_slowness_of_a_round_changes_nothing(self, pairs: list[tuple[float, float]]) -> None:
        ours, other = [a for a, _ in pairs], [b for _, b in pairs]
        plain, slowed = ratio_of(ours, other, "higher"), ratio_of([a / 7 for a in ours], [b / 7 for b in other], "higher")
        assert plain is not None
        assert slowed is not None
        assert slowed.median == pytest.approx(plain.median)
        assert slowed.low <= slowed.median <= slowed.high

    def test_what_was_too_little_to_be_measured_has_no_ratio(self) -> None:
        assert ratio_of([1.0, 0.0], [1.0, 1.0], "lower") is None

    @pytest.mark.parametrize(("ours", "other"), [([1.0], [1.0, 2.0]), ([], [])])
    def test_rounds_that_do_not_pair_are_refused(self, ours: list[float], other: list[float]) -> None:
        with pytest.raises(ValueError, match="rounds"):
            ratio_of(ours, other, "higher")


class TestPercentile:
    @pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 2.5), (1.0, 4.0)])
    def test_between_neighbours_it_takes_its_share(self, share: float, expected: float) -> None:
        assert percentile([4.0, 1.0, 3.0, 2.0], share) == expected

    def test_no_values_have_no_percentile(self) -> None:
        with pytest.raises(ValueError, match="no values"):
            percentile([], 0.5)


class TestMedianInterval:
    @pytest.mark.parametrize(
        ("number", "ends"), [(1, (0, 0)), (5, (0, 4)), (6, (0, 5)), (8, (0, 7)), (9, (1, 7)), (20, (5, 14)), (25, (7, 17))]
    )
    def test_its_ends_are_those_of_the_sign_test(self, number: int, ends: tuple[int, int]) -> None:
        found = median_interval(list(reversed(range(number))))
        assert found.median == (number - 1) / 2
        assert [found.low, found.high] == list(ends)

    def test_no_values_have_none(self) -> None:
        nothing: list[float] = []
        with pytest.raises(ValueError, match="no values"):
            median_interval(nothing)


class TestInterleave:
    def test_sides_take_turns(self) -> None:
        order: list[str] = []

        def side(name: str) -> int:
            order.append(name)
            return len(order)

        assert interleave(2, [lambda: side("a"), lambda: side("b")]) == [[1, 3], [2, 4]]
        assert order == ["a", "b", "a", "b"]
