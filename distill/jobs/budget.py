"""A job's budget of LM calls, tokens and money: taken in blocks, spent in the relay's memory, settled when a block's holder is done.

What is taken stands in the job's row, so it holds over all slices and workers. What a lost worker had taken counts as spent: it may have
been.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil, inf
from typing import Any, Literal

from sqlalchemy import Row, text

from distill.db import Session
from distill.jobs.models import Job
from distill.relay import NOTHING, Amount, Block, Shortage
from distill.spec import Budget

SHARE = 10
"""A block is at most a tenth of what is left, at the end one rollout: little lies unused with one item while another finds nothing."""
ROUNDS = (10, 1)
"""How often a block lets each rollout that is under way at once begin anew, where there is enough."""
LEAST = Amount(0, 1, 1e-6)
"""Of tokens and dollars that a call takes at least, where none has told yet what it takes."""

Limit = Literal["max_calls", "max_tokens", "max_cost_usd"]
FIELD_OF: dict[Limit, str] = {"max_calls": "calls", "max_tokens": "tokens", "max_cost_usd": "usd"}

_READ = text("""
SELECT max_calls, max_tokens, max_cost_usd, calls_taken, tokens_taken, usd_taken FROM jobs WHERE id = :job_id FOR NO KEY UPDATE
""")
_BOOK = text("""
UPDATE jobs SET calls_taken = GREATEST(calls_taken + :calls, 0), tokens_taken = GREATEST(tokens_taken + :tokens, 0),
       usd_taken = GREATEST(usd_taken + :usd, 0)
 WHERE id = :job_id
""")
_A_CALL = text("""
SELECT sum(calls) AS calls, sum(prompt_tokens + completion_tokens) AS tokens, sum(usd) AS usd
  FROM lm_usage WHERE job_id = :job_id AND role = :role AND kind = 'paid'
""")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a holder asks for, to make up a `shortage`: `booked` stands in the job's row for it. A rollout makes `calls` calls, and as many
    as `rollouts` are under way at once. `is_free` says that no call costs money."""

    role: str
    booked: Amount
    shortage: Shortage
    calls: int
    rollouts: int
    is_free: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """What stands in the job's row for the holder now, and the block that it may spend; without a block `lacks` names the limit."""

    booked: Amount
    block: Block | None
    lacks: Limit | None = None
    need: Amount = NOTHING
    most: float = inf
    """The value of the limit that was in the way."""


def take(s: Session, job_id: str, wanted: Wanted) -> Given:
    """Reserve the next block. What was spent beyond the last one is booked, whether there is more or not."""
    row = s.execute(_READ, {"job_id": job_id}).one()
    limits = limits_of(row)
    if wanted.is_free:
        limits = Amount(limits.calls, limits.tokens, inf)
    a_call = _a_call(s, job_id, wanted) if min(limits.tokens, limits.usd) < inf else NOTHING
    lacking = wanted.shortage
    free = limits - (taken_of(row) - wanted.booked) - lacking.used
    need = _of_calls(lacking.calls, NOTHING if lacking.begun else a_call)
    rollout = _of_calls(wanted.calls, a_call)
    if free.covers(need):
        blocks = (rollout.times(wanted.rollouts * rounds) for rounds in ROUNDS)
        more = next((block for block in blocks if free.covers(block.times(SHARE))), need)
        given = _granted(limits, wanted, more, rollout)
    else:
        given = _refused(limits, free, need, wanted)
    _book(s, job_id, given.booked - wanted.booked)
    return given


def _granted(limits: Amount, wanted: Wanted, more: Amount, rollout: Amount) -> Given:
    upto, spent = wanted.shortage.used + more, wanted.shortage.spent
    booked = Amount(
        max(wanted.booked.calls, upto.calls),
        max(wanted.booked.tokens, ceil(upto.tokens)) if limits.tokens < inf else spent.tokens,
        max(wanted.booked.usd, upto.usd) if limits.usd < inf else spent.usd,
    )
    granted = Amount(booked.calls, booked.tokens if limits.tokens < inf else inf, booked.usd if limits.usd < inf else inf)
    return Given(booked, Block(granted, rollout))


def _refused(limits: Amount, free: Amount, need: Amount, wanted: Wanted) -> Given:
    lacks = next(limit for limit, field in FIELD_OF.items() if getattr(free, field) < getattr(need, field))
    held, spent = wanted.booked, wanted.shortage.spent
    booked = Amount(max(held.calls, spent.calls), max(held.tokens, spent.tokens), max(held.usd, spent.usd))
    return Given(booked, None, lacks, need, getattr(limits, FIELD_OF[lacks]))


def settle(s: Session, job_id: str, booked: Amount, spent: Amount) -> None:
    """The holder is done: what it did not spend is free again, what it spent beyond is booked."""
    _book(s, job_id, spent - booked)


def _book(s: Session, job_id: str, more: Amount) -> None:
    if more != NOTHING:
        s.execute(_BOOK, {"job_id": job_id, "calls": int(more.calls), "tokens": int(more.tokens), "usd": more.usd})


def _a_call(s: Session, job_id: str, wanted: Wanted) -> Amount:
    """What a call of this role has taken so far, in the mean."""
    row = s.execute(_A_CALL, {"job_id": job_id, "role": wanted.role}).one()
    if row.calls:
        return Amount(1, float(row.tokens) / int(row.calls), float(row.usd or 0.0) / int(row.calls))
    spent = wanted.shortage.spent
    return spent.times(1 / spent.calls) if spent.calls else Amount(1)


def _of_calls(calls: int, a_call: Amount) -> Amount:
    """Expected of so many calls that are to be made; a call that was set aside is none, but it is to be paid."""
    expected = a_call.times(max(calls, 1))
    return Amount(calls, max(ceil(expected.tokens), LEAST.tokens), max(expected.usd, LEAST.usd))


def limits_of(row: Row[Any] | Job) -> Amount:
    """Infinite where there is none."""
    return Amount(*(inf if value is None else value for value in (row.max_calls, row.max_tokens, row.max_cost_usd)))


def taken_of(row: Row[Any] | Job) -> Amount:
    return Amount(row.calls_taken, row.tokens_taken, row.usd_taken)


def as_asked(job: Job) -> dict[str, Any]:
    """The limits that hold now, as fields of `distill.spec.Budget`; without those that are not set."""
    found = {"max_calls": job.max_calls, "max_tokens": job.max_tokens, "max_cost_usd": job.max_cost_usd}
    deadline = None if job.deadline is None else int(job.deadline.timestamp())
    return {name: value for name, value in {**found, "deadline": deadline}.items() if value is not None}


def set_limits(job: Job, limits: Budget) -> None:
    job.max_calls, job.max_tokens, job.max_cost_usd = limits.max_calls, limits.max_tokens, limits.max_cost_usd
    job.deadline = None if limits.deadline is None else datetime.fromtimestamp(limits.deadline, UTC)
