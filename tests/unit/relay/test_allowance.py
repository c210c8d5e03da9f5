"""What the bearer of a token may spend, counted in memory."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from distill.relay.allowance import ENDLESS, Allowance, Amount, Block, Shortage

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

    def test_a_call_more_than_was_said_is_set_aside_by_itself(self) -> None:
        allowance = Allowance(Block(Amount(3, inf, inf), Amount(1)))
        assert [allowance.take(name) for name in ("a", "a", "a")] == [None, None, None]
        assert allowance.take("a") == Shortage(Amount(), Amount(3), 1, begun=True)


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
