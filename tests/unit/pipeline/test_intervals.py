from math import factorial

import pytest

from distill.pipeline.intervals import mcnemar, mean_interval, paired_difference


class TestMeanInterval:
    def test_yes_or_no_scores_match_wilsons_published_figures(self) -> None:
        # Newcombe (1998), table I, case 81 of 263: 0.2553 to 0.3662.
        interval = mean_interval([1.0] * 81 + [0.0] * 182)
        assert interval is not None
        assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)

    def test_all_right_still_leaves_doubt(self) -> None:
        interval = mean_interval([1.0] * 10)
        assert interval is not None
        assert interval.value == 1.0
        assert 0.7 < interval.low < 0.75

    def test_another_scale_uses_students_t(self) -> None:
        # mean 3, s = 1.5811, t(4) = 2.7764: half width 1.9632.
        interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
        assert interval is not None
        assert interval.high - interval.value == pytest.approx(1.9632, abs=1e-4)

    def test_no_scores_have_no_mean(self) -> None:
        assert mean_interval([]) is None


class TestPairedDifference:
    def test_pairs_that_never_differ_still_have_a_width(self) -> None:
        interval = paired_difference([1.0] * 20, [1.0] * 20)
        assert interval is not None
        assert interval.low < 0 < interval.high

    def test_matches_bonett_and_price(self) -> None:
        # 20 pairs: 10 won, 2 lost. (11-3)/22 = 0.3636; variance (0.6364 - 0.1322) / 22.
        ours = [1.0] * 10 + [0.0] * 2 + [1.0] * 8
        theirs = [0.0] * 10 + [1.0] * 2 + [1.0] * 8
        interval = paired_difference(ours, theirs)
        assert interval is not None
        assert interval.value == pytest.approx(0.4)
        assert [interval.low, interval.high] == pytest.approx([0.0669, 0.6603], abs=1e-3)

    def test_shared_luck_cancels_out(self) -> None:
        theirs = [0.1 * i for i in range(10)]
        interval = paired_difference([score + 0.05 for score in theirs], theirs)
        assert interval is not None
        assert interval.low == pytest.approx(0.05)

    def test_four_pairs_say_nothing(self) -> None:
        assert paired_difference([1.0] * 4, [0.0] * 4) is None

    def test_unequal_lengths_are_a_mistake(self) -> None:
        with pytest.raises(ValueError, match="argument"):
            paired_difference([1.0] * 6, [1.0] * 5)


def trinomial(won: int, lost: int, n: int, share_won: float, share_lost: float) -> float:
    """How likely `won` and `lost` pairs of `n` are."""
    ways = factorial(n) // (factorial(won) * factorial(lost) * factorial(n - won - lost))
    return float(ways * share_won**won * share_lost**lost * (1 - share_won - share_lost) ** (n - won - lost))


def paired(won: int, lost: int, n: int) -> tuple[list[float], list[float]]:
    same = n - won - lost
    return [1.0] * won + [0.0] * lost + [1.0] * same, [0.0] * won + [1.0] * lost + [1.0] * same


class TestVerdictsError:
    """While at most half of the pairs differ; `docs/decisions/0017-paired-intervals.md` says what is beyond."""

    @pytest.mark.parametrize("differing", [0.1, 0.3, 0.5])
    @pytest.mark.parametrize("n", [10, 30])
    def test_two_equal_programs_are_told_apart_in_at_most_one_case_of_twenty(self, n: int, differing: float) -> None:
        wrong = 0.0
        for won in range(n + 1):
            for lost in range(n + 1 - won):
                interval = paired_difference(*paired(won, lost, n))
                assert interval is not None
                if not interval.low <= 0.0 <= interval.high:
                    wrong += trinomial(won, lost, n, differing / 2, differing / 2)
        assert wrong <= 0.05


class TestMcNemar:
    def test_matches_the_binomial_table(self) -> None:
        # Of 12 pairs that differ 10 are won: 2 × (1 + 12 + 66) / 4096.
        assert mcnemar(*paired(10, 2, 20)) == pytest.approx(158 / 4096)

    def test_pairs_that_never_differ_have_none(self) -> None:
        assert mcnemar(*paired(0, 0, 20)) is None

    def test_graded_scores_have_none(self) -> None:
        assert mcnemar([0.5, 1.0], [0.0, 1.0]) is None
