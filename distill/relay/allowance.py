"""What the bearer of a token may spend: calls, tokens and money, handed out in blocks and counted in memory.

A rollout begins when what it is expected to need is there, and its calls are set aside: one that was cut off between its calls would be
paid for again. Tokens and prices are known after the answer, so what is spent can pass what was granted by the calls then in flight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

_HAIR = 1e-9
_MOST_NAMES = 100_000
"""Of rollouts under way that have begun with what was paid before, so that nothing else bounds them. A program chooses them."""


@dataclass(frozen=True, slots=True)
class Amount:
    """LM calls, tokens of prompts and answers, US dollars; infinite where there is no limit."""

    calls: float = 0
    tokens: float = 0
    usd: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.calls - other.calls, self.tokens - other.tokens, self.usd - other.usd)

    def times(self, factor: float) -> Amount:
        """Of a finite amount."""
        return Amount(self.calls * factor, self.tokens * factor, self.usd * factor)

    def covers(self, other: Amount) -> bool:
        """Sums of dollars are off by less than a billionth: what was granted for a rollout must let it begin."""
        return self.calls >= other.calls and self.tokens >= other.tokens and self.usd > other.usd - _HAIR


NOTHING = Amount()
ENDLESS = Amount(inf, inf, inf)
ONE_CALL = Amount(calls=1)


@dataclass(frozen=True, slots=True)
class Block:
    """`granted` in all, earlier blocks included; `rollout` is what one rollout is expected to need."""

    granted: Amount = ENDLESS
    rollout: Amount = ONE_CALL


WITHOUT_END = Block()


@dataclass(frozen=True, slots=True)
class Shortage:
    """What a call lacks: `calls` more have to be set aside, none for one that was. `used` is spent or set aside; of tokens and money only
    what is spent, where the rollout has `begun`: it is to come to its end while there is anything left."""

    spent: Amount
    used: Amount
    calls: int
    begun: bool = False


Refill = Callable[[Shortage], Block | None]
"""Asked for more; None when there is none."""


class TooManyCalls(Exception):
    """One rollout has made all the calls that any may make, whatever is left of the allowance."""


@dataclass(slots=True)
class Allowance:
    """The account of one token. Whoever uses it from several threads brings a lock."""

    block: Block
    rollout_calls: float = inf
    """That one rollout may make, or more where it is expected to."""
    spent: Amount = NOTHING
    unknown_tokens: bool = False
    unknown_usd: bool = False
    """An answer did not say what it took, or nobody knows its price: what is left cannot be told any more."""
    _in_flight: int = 0
    _aside: int = 0
    """Calls that rollouts under way have not made yet."""
    _begun: dict[str, int] = field(default_factory=dict)
    """The same by rollout; below zero for one that makes more than was expected."""
    _for_nothing: set[str] = field(default_factory=set)
    """Rollouts that began with a call for which nothing was paid."""

    @property
    def cannot_tell(self) -> bool:
        """Whether a limit cannot be kept any more."""
        granted = self.block.granted
        return (self.unknown_tokens and granted.tokens < inf) or (self.unknown_usd and granted.usd < inf)

    def take(self, rollout: str) -> Shortage | None:
        """Reserve a call of a rollout (one without a name is a rollout of its own); what is lacking where it cannot be made.

        Raises TooManyCalls.
        """
        aside = self._begun.get(rollout)
        if aside is not None and aside <= 0 and self._made(rollout, aside) >= self.rollout_calls:
            raise TooManyCalls
        return self._begin(rollout) if aside is None else self._go_on(rollout, aside)

    def _made(self, rollout: str, aside: int) -> float:
        return (0 if rollout in self._for_nothing else self.block.rollout.calls) - aside

    def _begin(self, rollout: str) -> Shortage | None:
        need = self.block.rollout
        used = self._expected()
        if self.cannot_tell or not (self.block.granted - used).covers(need):
            return Shortage(self.spent, used, int(need.calls))
        self._in_flight += 1
        if rollout:
            self._begun[rollout] = int(need.calls) - 1
            self._aside += self._begun[rollout]
        return None

    def _go_on(self, rollout: str, aside: int) -> Shortage | None:
        left = self.block.granted - self.spent
        others_aside = 0 if aside > 0 else self._aside
        if self.cannot_tell or left.tokens <= 0 or left.usd <= 0 or left.calls < self._in_flight + others_aside + 1:
            made = self.spent.calls + self._in_flight + self._aside
            return Shortage(self.spent, Amount(made, self.spent.tokens, self.spent.usd), 0 if aside > 0 and self._aside else 1, begun=True)
        self._in_flight += 1
        self._set_aside(rollout, aside - 1)
        return None

    def _set_aside(self, rollout: str, calls: int) -> None:
        self._aside += max(0, calls) - max(0, self._begun.get(rollout, 0))
        self._begun[rollout] = calls

    def _expected(self) -> Amount:
        """Spent, or to be expected of what is in flight or set aside."""
        rollout = self.block.rollout
        return self.spent + rollout.times((self._in_flight + self._aside) / rollout.calls)

    def settle(self, rollout: str = "", *, answered: bool, tokens: int | None, usd: float | None) -> None:
        """A call is over; one without an answer cost nothing, and its rollout may still make it. None: not known."""
        self._in_flight -= 1
        if answered:
            self.spent += Amount(1, tokens or 0, usd or 0.0)
            self.unknown_tokens |= tokens is None
            self.unknown_usd |= usd is None
        elif rollout in self._begun:
            self._give_back(rollout)

    def _give_back(self, rollout: str) -> None:
        """A rollout that nothing was paid for, and that has nothing in flight, has not begun."""
        aside = self._begun[rollout] + 1
        has_begun = aside < int(self.block.rollout.calls)
        self._set_aside(rollout, aside if has_begun else 0)
        if not has_begun:
            del self._begun[rollout]

    def answer_for_nothing(self, rollout: str) -> None:
        """A call was answered by what was paid before: the rollout has begun then, and makes one call less. Where it is the first one,
        nothing is set aside for the others."""
        if rollout not in self._begun and len(self._begun) >= _MOST_NAMES:
            return
        if rollout and rollout not in self._begun:
            self._for_nothing.add(rollout)
        if rollout:
            self._set_aside(rollout, self._begun.get(rollout, 0) - 1)

    def end_rollout(self, calls: int) -> None:
        """A rollout has ended with so many answered calls: what was set aside for more is free. Without any it had not begun."""
        if calls:
            self._aside = max(0, self._aside - max(0, int(self.block.rollout.calls) - calls))

    def end_all_rollouts(self) -> None:
        """None is under way: nothing is set aside."""
        self._aside = 0
        self._begun.clear()
        self._for_nothing.clear()
