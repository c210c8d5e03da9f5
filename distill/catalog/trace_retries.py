"""Failed traces that were run again.

A trace never changes: another attempt is a trace of its own, under a digest of its own, and a row here says whose it is. Which of them
stands for a rollout is decided whenever it is looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, select

from distill.catalog.copying import copy_in
from distill.catalog.facts import Trace, TraceRetry
from distill.db import Session
from distill.spec import retry_digest

FAILED = "failed"
_COLUMNS = ("project_id", "digest", "retry")
_HEAD = (Trace.digest, Trace.status, Trace.job_id, Trace.created_at)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One of a rollout's traces, without its body."""

    digest: str
    status: str
    job_id: str | None
    created_at: datetime


def attempts(s: Session, project_id: str, digests: Iterable[str]) -> dict[str, list[Attempt]]:
    """The traces of rollouts that are stored, by the rollout's digest: its first one, and then those of its retries by age."""
    query = select(Trace.digest, *_HEAD).where(Trace.project_id == project_id, Trace.digest.in_(list(digests)))
    found = _by_rollout(s, query)
    failed = [digest for digest, (first,) in found.items() if first.status == FAILED]
    if failed:
        again = select(TraceRetry.digest, *_HEAD).where(TraceRetry.project_id == project_id, TraceRetry.digest.in_(failed))
        again = again.join(Trace, (Trace.project_id == TraceRetry.project_id) & (Trace.digest == TraceRetry.retry)).order_by(Trace.id)
        for digest, later in _by_rollout(s, again).items():
            found[digest] += later
    return found


def _by_rollout(s: Session, query: Select[str, str, str, str | None, datetime]) -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = {}
    for digest, name, status, job_id, created_at in s.execute(query):
        found.setdefault(digest, []).append(Attempt(name, status, job_id, created_at))
    return found


def own(found: Sequence[Attempt], job_id: str) -> Attempt | None:
    """The newest that a job has made, or that was sent in for its retry."""
    mine = retry_digest(found[0].digest, job_id)
    return next((each for each in reversed(found) if each.job_id == job_id or each.digest == mine), None)


def standing(found: Sequence[Attempt], job_id: str, as_of: datetime | None = None) -> Attempt:
    """The one that stands for a job: its own, else the first that has not failed, else the newest. What others stored after `as_of` does
    not count."""
    mine = own(found, job_id)
    if mine is not None:
        return mine
    there = [each for each in found if as_of is None or each.created_at <= as_of] or found[:1]
    return next((each for each in there if each.status != FAILED), there[-1])


def store(s: Session, retries: Sequence[tuple[str, str, str]]) -> None:
    """Note the digests of retries beside those of their rollouts, `(project, rollout, retry)`, in the transaction that stores traces."""
    if retries:
        copy_in(s, "trace_retries", _COLUMNS, retries, _COLUMNS)
