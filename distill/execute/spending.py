"""The LM calls of one item: a grant of the relay, the job's budget behind it, taken in blocks and settled at the end, and their cost."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from math import inf
from types import TracebackType

import structlog
from sqlalchemy.exc import SQLAlchemyError

from distill.catalog import usage
from distill.catalog.usage import Kind, NewUsage
from distill.db import Session, unit_of_work
from distill.execute.targets import asked, targets_of
from distill.execute.work import Work
from distill.jobs import budget, pausing
from distill.jobs.budget import Given, Limit, Wanted
from distill.jobs.claims import Claim
from distill.jobs.shortfall import Shortfall
from distill.pipeline.costs import Asked, Spent
from distill.pipeline.roles import Cast
from distill.relay import NOTHING, Amount, Block, Grant, Price, Relay, Shortage, SlotUsage, Target
from distill.spec import calls_of_a_rollout

log = structlog.get_logger(__name__)


class Purse:
    """What an item has taken of its job's budget. Safe to use from any thread."""

    def __init__(self, claim: Claim, cast: Cast, targets: Mapping[str, Target]) -> None:
        self._job_id, self._role, self._width = claim.job_id, cast.role, claim.width
        self._calls = calls_of_a_rollout(cast.program) or 1
        self._is_free = all(_is_free(target.price) for target in targets.values())
        self._booked = NOTHING
        self._closed = False
        self._lock = threading.Lock()
        self.refused: Given | None = None
        """The last refusal, when the budget had no more."""

    def first_block(self) -> Block:
        """Nothing yet: it is taken when the first call needs it."""
        return Block(NOTHING, Amount(self._calls))

    def refill(self, shortage: Shortage) -> Block | None:
        """Take another block; None when the budget is spent, or when the item is over."""
        with self._lock:
            if self._closed:
                return None
            wanted = Wanted(self._role, self._booked, shortage, self._calls, self._width, self._is_free)
            with unit_of_work() as s:
                given = budget.take(s, self._job_id, wanted)
            self._booked = given.booked
            self.refused = given if given.block is None else None
            return given.block

    def close(self, s: Session, spent: Amount) -> None:
        """Give back what was not spent."""
        with self._lock:
            self._closed = True
            budget.settle(s, self._job_id, self._booked, spent)


def _is_free(price: Price | None) -> bool:
    return price is not None and price({"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}) == 0


class Spending:
    """Use it as a block: leaving it revokes the grant, gives back what was not spent, and writes down what was. `slots` name the LMs as
    costs do."""

    def __init__(self, grant: Grant, purse: Purse | None, claim: Claim, role: str, slots: Mapping[str, Asked]) -> None:
        self.grant = grant
        self.slots = slots
        self.purse, self._claim, self._role = purse, claim, role
        self._told = NOTHING

    @classmethod
    def begin(cls, s: Session, relay: Relay, work: Work, cast: Cast, *, calls: bool = True) -> "Spending":
        """Open a grant for the slots of a role, for none without `calls`. Of the job's budget it takes what it needs, when it needs it; and
        nothing is asked once the lease may be another's.

        Raises Refused for a connection that has changed, NotFound for one that is gone.
        """
        if not calls:
            return cls(relay.grant({}), None, work.claim, cast.role, {})
        targets = targets_of(s, cast)
        purse = Purse(work.claim, cast, targets)
        grant = relay.grant(targets, purse.first_block(), purse.refill, work.is_held, work.claim.project_id, background=True)
        return cls(grant, purse, work.claim, cast.role, asked(cast, targets))

    def __enter__(self) -> "Spending":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.grant.revoke()
        try:
            with unit_of_work() as s:
                self.record(s)
                if self.purse is not None:
                    self.purse.close(s, self.grant.spent())
        except SQLAlchemyError as fault:
            if error is None:
                raise
            log.warning("usage_not_recorded", job_id=self._claim.job_id, item_id=self._claim.item_id, error=str(fault))

    def halt(self, work: Work) -> None:
        """A call found nothing left: pause the job, unless its budget was raised meanwhile. Raises Stopped."""
        found, most = self._shortfall()
        if found is None:
            return
        with unit_of_work() as s:
            stops = pausing.stop_for_budget(s, self._claim.job_id, found, most)
        if stops:
            work.stop("pause")
            work.check()

    def _shortfall(self) -> tuple[Shortfall | None, float]:
        """What was in the way, and the limit that it was; None where it has gone."""
        if self.grant.allowance.cannot_tell:
            return self._unknown(), inf
        refused = self.purse.refused if self.purse is not None else None
        if refused is None or refused.lacks is None:
            return None, inf
        return Shortfall(refused.lacks, refused.need), refused.most

    def _unknown(self) -> Shortfall:
        names = ", ".join(slot.name for slot in self.slots.values())
        if self.grant.allowance.unknown_tokens:
            limit: Limit = "max_tokens" if self.grant.allowance.block.granted.tokens < inf else "max_cost_usd"
            return Shortfall(limit, unknown=f"An answer of {names} did not say how many tokens it took")
        unpriced = ", ".join(slot.name for slot in self.slots.values() if slot.price is None)
        return Shortfall("max_cost_usd", unknown=f"Nobody has said what {unpriced} costs ([connections.NAME.prices] does)")

    def record(self, s: Session) -> None:
        """Write down what was spent so far, so that what a lost worker paid for is on the bill."""
        usage.record(s, self._rows("paid", self.grant.usage()) + self._rows("saved", self.grant.reused()))

    def record_meanwhile(self) -> None:
        """The same while no trace comes: a rollout of many calls takes long, and its worker may be lost. A call that was paid and is on no
        bill would never come on one, since whoever runs the rollout again gets its reply for nothing.

        While the database is away, nothing."""
        if (spent := self.grant.spent()) == self._told:
            return
        try:
            with unit_of_work() as s:
                self.record(s)
            self._told = spent
        except SQLAlchemyError as fault:
            log.warning("usage_not_recorded", job_id=self._claim.job_id, item_id=self._claim.item_id, error=str(fault))

    def _rows(self, kind: Kind, by_slot: Mapping[str, SlotUsage]) -> list[NewUsage]:
        return [usage_row(self._claim, kind, self._role, self.slots[slot].name, used) for slot, used in by_slot.items()]

    def saved_rows(self, by_traces: Mapping[str, Spent]) -> list[NewUsage]:
        """What was saved in all: by traces that were there before, by model, and by replies that were paid for before."""
        total = {model: replace(spent) for model, spent in by_traces.items()}
        for slot, used in self.grant.reused().items():
            total.setdefault(self.slots[slot].name, Spent()).add(asdict(used), used.usd)
        return [usage_row(self._claim, "saved", self._role, model, spent) for model, spent in total.items()]

    def counts(self) -> Counter[str]:
        """Calls and tokens so far, over all slots."""
        total = Counter(calls=0, prompt_tokens=0, completion_tokens=0)
        for used in self.grant.usage().values():
            total.update(calls=used.calls, prompt_tokens=used.prompt_tokens, completion_tokens=used.completion_tokens)
        return total


def usage_row(claim: Claim, kind: Kind, role: str, model: str, spent: Spent | SlotUsage) -> NewUsage:
    """What a claim asked of one model."""
    return NewUsage(
        claim.item_id, claim.fence, kind, model, claim.project_id, claim.job_id, role, spent.calls, spent.prompt_tokens,
        spent.completion_tokens, spent.cached_tokens, spent.seconds, spent.usd,
    )  # fmt: skip
