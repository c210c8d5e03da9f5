from distill.pipeline.demos import choose, spread


class TestChoose:
    def test_the_better_way_is_taken(self) -> None:
        assert choose({0: 1.0, 1: 1.0}, {0: 1.0, 1: 0.0}).taken == "keep"
        assert choose({0: 0.0, 1: 1.0}, {0: 1.0, 1: 1.0}).taken == "drop"

    def test_demos_that_make_no_difference_stay(self) -> None:
        trial = choose({0: 1.0, 1: 0.0}, {0: 0.0, 1: 1.0})
        assert (trial.taken, trial.keep, trial.drop, trial.examples) == ("keep", 0.5, 0.5, 2)

    def test_only_examples_that_were_judged_both_ways_count(self) -> None:
        trial = choose({0: 1.0, 1: None, 2: 0.0}, {0: 0.0, 1: 1.0, 3: 1.0})
        assert (trial.taken, trial.examples) == ("keep", 1)

    def test_without_any_they_stay(self) -> None:
        trial = choose({0: None}, {})
        assert (trial.taken, trial.keep) == ("keep", None)
        assert trial.why == "Demos are kept: no example could be scored with and without them."

    def test_says_why(self) -> None:
        why = choose({0: 0.0, 1: 1.0}, {0: 1.0, 1: 1.0}).why
        assert why.startswith("Demos are dropped: the student before training scores 0.500 with them and 1.000 without, on 2 examples")


def test_places_are_spread_over_a_sorted_trainset() -> None:
    assert spread(3, 50) == [0, 1, 2]
    assert spread(100, 4) == [0, 25, 50, 75]
    assert spread(5, 4) == [0, 1, 2, 3]
