"""What the bearer of a token may spend, counted in memory."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.relay.allowance import ENDLESS, Allowance, Amount, Block, Shortage, TooManyCalls

DOLLARS = st.floats(min_value=1e-6, max_value=1000)


def settled(allowance: Allowance, *usd: float) -> Allowance:
    for each in usd:
        assert allowance.take("") is None
        allowance.settle(answered=True, tokens=1, usd=each)
    return allowance


class TestRollouts:
    def test_its_calls_are_set_aside_when_it_begins(self) -> None:
        allowance = Allowance(Block(Amount(5, inf, inf), Amount(2)))
        assert [allowance.take(name) for name in ("a", "b")] == [None, None]
        assert allowance.take("c") == Shortage(Amount(), Amount(4), 2)
        assert [allowance.take(name) for name in ("a", "b")] == [None, None]

    def test_one_that_ends_early_leaves_its_calls_to_others(self) -> None:
        allowance = Allowance(Block(Amount(3, inf, inf), Amount(2)))
        assert allowance.take("a") is None
        allowance.settle(answered=True, tokens=1, usd=0.0)
        assert allowance.take("b") is not None
        allowance.end_rollout(calls=1)
        assert allowance.take("b") is None

    def test_one_that_has_begun_goes_on_while_anything_is_left_and_no_longer(self) -> None:
        allowance = Allowance(Block(Amount(inf, 100, inf), Amount(2, 60, 1e-6)))
        assert allowance.take("a") is None
        allowance.settle(answered=True, tokens=99, usd=0.0)
        assert allowance.take("b") is not None, "it would need 60"
        assert allowance.take("a") is None
        allowance.settle(answered=True, tokens=99, usd=0.0)
        assert allowance.take("a") == Shortage(Amount(2, 198), Amount(2, 198), 1, begun=True)

    def test_a_call_without_an_answer_is_given_back_once(self) -> None:
        """Also by a rollout that ends with it, as one does whose prompt is too long."""
        allowance = Allowance(Block(Amount(4, inf, inf), Amount(2)))
        assert allowance.take("a") is None
        allowance.settle("a", answered=True, tokens=1, usd=0.0)
        assert allowance.take("a") is None
        allowance.settle("a", answered=False, tokens=None, usd=None)
        assert allowance.take("b") is None
        allowance.end_rollout(calls=1)
        assert allowance.take("c") is not None, "it needs two calls, and beside those of b one is left"
        allowance.settle("b", answered=True, tokens=1, usd=0.0)
        assert allowance.take("b") is None, "its own are there"

    def test_one_whose_first_call_had_no_answer_leaves_all_its_calls_to_others(self) -> None:
        allowance = Allowance(Block(Amount(2, inf, inf), Amount(2)))
        assert allowance.take("a") is None
        assert allowance.take("b") is not None
        allowance.settle("a", answered=False, tokens=None, usd=None)
        assert allowance.take("b") is None
        allowance.end_rollout(calls=0)
        assert allowance.take("a") is not None
        assert allowance.take("b") is None

    @given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=40))
    def test_whoever_may_go_on_can_be_given_what_it_lacks(self, steps: list[tuple[str, bool]]) -> None:
        """A block that holds what was asked for lets the call be made: nobody asks again and again."""
        allowance, answered = Allowance(Block(Amount(4, inf, inf), Amount(2))), dict.fromkeys("abcd", 0)
        for name, is_answered in steps:
            if (lacking := allowance.take(name)) is not None:
                allowance.block = Block(Amount(max(allowance.block.granted.calls, lacking.used.calls + lacking.calls), inf, inf), Amount(2))
                assert allowance.take(name) is None
            allowance.settle(name, answered=is_answered, tokens=1, usd=0.0)
            answered[name] += is_answered
            assert allowance.block.granted.calls - allowance.spent.calls >= sum(2 - made for made in answered.values() if made == 1)

    def test_one_that_was_broken_off_may_make_as_many_calls_as_another(self) -> None:
        """Two were paid in its earlier life, and are answered for nothing: of five, three are left, and of those none is set aside."""
        allowance = Allowance(Block(Amount(10, inf, inf), Amount(2)), rollout_calls=5)
        for _ in range(2):
            allowance.answer_for_nothing("again")
        for _ in range(3):
            assert allowance.take("again") is None
            allowance.settle("again", answered=True, tokens=1, usd=0.0)
        with pytest.raises(TooManyCalls):
            allowance.take("again")
        assert allowance.spent.calls == 3

    def test_a_call_more_than_was_said_is_set_aside_by_itself(self) -> None:
        allowance = Allowance(Block(Amount(3, inf, inf), Amount(1)))
        assert [allowance.take(name) for name in ("a", "a", "a")] == [None, None, None]
        assert allowance.take("a") == Shortage(Amount(), Amount(3), 1, begun=True)


class TestCallsOfOne:
    def test_are_bounded_whatever_is_left(self) -> None:
        allowance = Allowance(Block(ENDLESS, Amount(1)), rollout_calls=3)
        assert [allowance.take("a") for _ in range(3)] == [None] * 3
        with pytest.raises(TooManyCalls):
            allowance.take("a")
        assert allowance.take("b") is None

    def test_one_without_an_answer_does_not_count(self) -> None:
        allowance = Allowance(Block(ENDLESS, Amount(1)), rollout_calls=2)
        assert [allowance.take("a") for _ in range(2)] == [None] * 2
        allowance.settle("a", answered=False, tokens=None, usd=None)
        assert allowance.take("a") is None
        with pytest.raises(TooManyCalls):
            allowance.take("a")

    def test_a_program_whose_calls_are_known_may_make_them_all(self) -> None:
        allowance = Allowance(Block(ENDLESS, Amount(5)), rollout_calls=2)
        assert [allowance.take("a") for _ in range(5)] == [None] * 5
        with pytest.raises(TooManyCalls):
            allowance.take("a")


class TestMoney:
    @given(spent=st.lists(DOLLARS, max_size=20), need=DOLLARS)
    def test_a_block_of_just_what_a_rollout_needs_lets_it_begin(self, spent: list[float], need: float) -> None:
        allowance = settled(Allowance(Block(ENDLESS, Amount(1, 1, need))), *spent)
        lacking = Shortage(allowance.spent, allowance.spent, 1)
        allowance.block = Block(Amount(inf, inf, lacking.used.usd + need), Amount(1, 1, need))
        assert allowance.take("") is None
        assert allowance.take("") is not None


class TestUnknown:
    def test_a_limit_that_cannot_be_kept_stops_all(self) -> None:
        allowance = Allowance(Block(Amount(inf, 100, inf), Amount(1, 1, 1e-6)))
        assert allowance.take("") is None
        allowance.settle(answered=True, tokens=None, usd=None)
        assert allowance.cannot_tell
        assert allowance.take("") is not None

    def test_without_a_limit_it_does_not_matter(self) -> None:
        allowance = settled(Allowance(Block()))
        assert allowance.take("") is None
        allowance.settle(answered=True, tokens=None, usd=None)
        assert allowance.take("") is None
