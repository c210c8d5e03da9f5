"""The LM calls of one item: a grant of the relay, the job's budget behind it, taken in blocks and settled at the end, and their cost."""

import threading
from collections import Counter
from collections.abc import Mapping
from types import TracebackType

import structlog
from sqlalchemy.exc import SQLAlchemyError

from distill.catalog import usage
from distill.catalog.usage import Kind, NewUsage
from distill.db import Session, unit_of_work
from distill.execute.context import JobContext
from distill.execute.targets import asked, targets_of
from distill.jobs import budget
from distill.jobs.claims import Claim
from distill.pipeline.costs import Asked, Spent
from distill.pipeline.roles import Cast
from distill.relay import Grant, Relay, SlotUsage

log = structlog.get_logger(__name__)


class Purse:
    """What an item has taken of its job's budget. Safe to use from any thread."""

    def __init__(self, job_id: str, block: int) -> None:
        self._job_id = job_id
        self._block = block
        self._taken = 0
        self._closed = False
        self._lock = threading.Lock()

    def refill(self) -> int:
        """Take another block; 0 when the budget is spent, or when the item is over."""
        with self._lock:
            if self._closed:
                return 0
            with unit_of_work() as s:
                more = budget.take(s, self._job_id, self._block)
            self._taken += more
            return more

    def close(self, spent: int) -> None:
        """Give back what was not spent."""
        with self._lock:
            self._closed = True
            with unit_of_work() as s:
                budget.give_back(s, self._job_id, self._taken - spent)


class Spending:
    """Use it as a block: leaving it revokes the grant, gives back what was not spent, and writes down what was. `purse` is None without
    a budget; `slots` name the LMs as costs do."""

    def __init__(self, grant: Grant, purse: Purse | None, claim: Claim, role: str, slots: Mapping[str, Asked]) -> None:
        self.grant = grant
        self.slots = slots
        self._purse, self._claim, self._role = purse, claim, role

    @classmethod
    def begin(cls, s: Session, relay: Relay, claim: Claim, job: JobContext, cast: Cast, *, calls: bool = True) -> "Spending":
        """Open a grant for the slots of a role, for none without `calls`. Of a budget it takes as many calls at once as the claim's width
        makes, when it needs them.

        Raises Refused for a connection that has changed, NotFound for one that is gone.
        """
        if not calls:
            return cls(relay.grant({}), None, claim, cast.role, {})
        targets = targets_of(s, cast)
        slots = asked(cast, targets)
        if budget.left(s, job.job_id) is None:
            return cls(relay.grant(targets), None, claim, cast.role, slots)
        purse = Purse(job.job_id, claim.width * max(1, len(cast.lms)))
        return cls(relay.grant(targets, 0, purse.refill), purse, claim, cast.role, slots)

    def __enter__(self) -> "Spending":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.grant.revoke()
        if self._purse is not None:
            self._purse.close(self.counts()["calls"])
        try:
            with unit_of_work() as s:
                usage.record(s, self._paid())
        except SQLAlchemyError as fault:
            if error is None:
                raise
            log.warning("usage_not_recorded", item=self._claim.item_id, error=str(fault))

    def _paid(self) -> list[NewUsage]:
        return [usage_row(self._claim, "paid", self._role, self.slots[slot].name, used) for slot, used in self.grant.usage().items()]

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
