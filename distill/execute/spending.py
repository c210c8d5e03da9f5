"""The LM calls of one item: a grant of the relay, and the job's budget behind it, taken in blocks and settled at the end."""

from collections import Counter
from dataclasses import dataclass
from types import TracebackType

from distill.db import Session, unit_of_work
from distill.execute.context import JobContext
from distill.execute.targets import targets_of
from distill.jobs import budget
from distill.pipeline.roles import Cast
from distill.relay import Grant, Relay


@dataclass
class Spending:
    """Use it as a block: leaving it revokes the grant and gives back what was not spent. `block` is None without a budget."""

    job_id: str
    grant: Grant
    block: int | None
    taken: int
    dry: bool = False

    @classmethod
    def begin(cls, s: Session, relay: Relay, job: JobContext, cast: Cast, width: int) -> "Spending":
        """Open a grant for the slots of a role. A budgeted grant starts with enough calls for `width` examples at once."""
        targets = targets_of(s, cast.slots)
        if budget.left(s, job.job_id) is None:
            return cls(job.job_id, relay.grant(targets, None), None, 0)
        block = width * max(1, len(cast.lms))
        taken = budget.take(s, job.job_id, block)
        return cls(job.job_id, relay.grant(targets, taken), block, taken)

    def __enter__(self) -> "Spending":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.grant.revoke()
        if self.block is not None:
            with unit_of_work() as s:
                budget.give_back(s, self.job_id, self.taken - self.counts()["calls"])

    def top_up(self) -> None:
        """Take another block when less than half of one is left."""
        if self.block is None or self.dry or self.taken - self.counts()["calls"] > self.block // 2:
            return
        with unit_of_work() as s:
            more = budget.take(s, self.job_id, self.block)
        self.dry = not more
        self.taken += more
        self.grant.extend(more)

    def counts(self) -> Counter[str]:
        """Calls and tokens so far, over all slots."""
        total = Counter(calls=0, prompt_tokens=0, completion_tokens=0)
        for usage in self.grant.usage().values():
            total.update(calls=usage.calls, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
        return total
