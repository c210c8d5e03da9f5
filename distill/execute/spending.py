"""The LM calls of one item: a grant of the relay, and the job's budget behind it, taken in blocks and settled at the end."""

import threading
from collections import Counter
from types import TracebackType

from distill.db import Session, unit_of_work
from distill.execute.context import JobContext
from distill.execute.targets import targets_of
from distill.jobs import budget
from distill.pipeline.roles import Cast
from distill.relay import Grant, Relay


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
    """Use it as a block: leaving it revokes the grant and gives back what was not spent. `purse` is None without a budget."""

    def __init__(self, grant: Grant, purse: Purse | None) -> None:
        self.grant = grant
        self._purse = purse

    @classmethod
    def begin(cls, s: Session, relay: Relay, job: JobContext, cast: Cast, width: int) -> "Spending":
        """Open a grant for the slots of a role. Of a budget it takes as many calls at once as `width` examples make, when it needs them.

        Raises Refused for a connection that has changed, NotFound for one that is gone.
        """
        targets = targets_of(s, cast)
        if budget.left(s, job.job_id) is None:
            return cls(relay.grant(targets), None)
        purse = Purse(job.job_id, width * max(1, len(cast.lms)))
        return cls(relay.grant(targets, 0, purse.refill), purse)

    def __enter__(self) -> "Spending":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.grant.revoke()
        if self._purse is not None:
            self._purse.close(self.counts()["calls"])

    def counts(self) -> Counter[str]:
        """Calls and tokens so far, over all slots."""
        total = Counter(calls=0, prompt_tokens=0, completion_tokens=0)
        for usage in self.grant.usage().values():
            total.update(calls=usage.calls, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
        return total
