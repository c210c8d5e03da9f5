"""Removes what a project keeps no longer: traces, events, details of jobs, artifacts without an alias, entries of the audit log.

The dispatcher's collector calls it. Each piece is a transaction of its own, with its numbers in one audit entry a round and project.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import TextClause, select
from sqlalchemy.exc import SQLAlchemyError

from distill.catalog import audit, project_limits
from distill.catalog.models import AuditEntry, Project
from distill.db import Session, now, unit_of_work
from distill.errors import StillhouseError
from distill.ids import first_id
from distill.jobs import clearing, erased, erasing, erasing_sql, quotas, retention_sql

log = structlog.get_logger(__name__)
_AT_ONCE = 2000
_TRACES_AT_ONCE = 200
_PAUSE_SECONDS = 0.05
"""Between two locks of a project's jobs: who makes one meanwhile waits for the deletion of so many traces at most."""
_BATCHES = 50
"""Of one kind, project and round; the rest is removed by the rounds that follow at once."""


def carry_out(period_seconds: float, stopping: threading.Event) -> None:
    """One round over all projects, unless another process is at it or the last one ended less than a period ago."""
    with unit_of_work() as turn:
        turn.execute(erasing_sql.UNHURRIED)
        if not turn.scalar(retention_sql.TURN) or not turn.scalar(retention_sql.DUE, {"seconds": period_seconds}):
            return
        with unit_of_work() as s:
            rows = s.scalars(select(Project).where(Project.deleted_at.is_(None)).order_by(Project.id))
            kept = {row.id: project_limits.of(row).values for row in rows}
            at = now(s)
        complete = True
        for project_id, days in kept.items():
            wanted = {name: days[name] for name in _KINDS if days[name]}
            complete = _Round(project_id, stopping).run(wanted, at) and complete
        if complete and not stopping.is_set():
            with unit_of_work() as s:
                s.execute(retention_sql.DONE)


@dataclass
class _Round:
    """One round in one project."""

    project_id: str
    stopping: threading.Event
    entry_id: str | None = None

    def run(self, wanted: Mapping[str, int], at: datetime) -> bool:
        """Whether the next period is soon enough for what is left: not after a stop, nor after as many batches as a round has.

        What fails is logged, and tried again in the next period: at once it would only fail again.
        """
        complete = True
        for name, days in wanted.items():
            batches = 0
            try:
                for counts in _KINDS[name](self, at - timedelta(days=days)):
                    batches += 1
                    if counts:
                        log.info("retention", project_id=self.project_id, **counts)
                    if batches == _BATCHES or self.stopping.is_set():
                        complete = False
                        break
            except (StillhouseError, SQLAlchemyError, OSError) as error:  # the others are not held up by it
                log.warning("retention not carried out", project_id=self.project_id, what=name, kind=type(error).__name__, error=str(error))
            except Exception:  # nor by a fault of ours
                log.exception("retention not carried out", project_id=self.project_id, what=name)
        return complete

    def count(self, s: Session, counts: Mapping[str, int]) -> None:
        """Say in the audit log what the caller's transaction removes."""
        found = +Counter(counts)
        entry = s.get(AuditEntry, self.entry_id, with_for_update=True) if self.entry_id else None
        if entry is not None:
            entry.data = dict(Counter(entry.data) + found)
            s.flush()
        elif found:
            self.entry_id = audit.record(s, self.project_id, "retention.removed", self.project_id, found)

    def list_ids(self, query: TextClause, **values: Any) -> list[str]:
        with unit_of_work() as s:
            return list(s.scalars(query, {"project_id": self.project_id, "many": _AT_ONCE, **values}))


Batches = Iterator[Mapping[str, int]]


def _traces(of: _Round, before: datetime) -> Batches:
    """Skips those of programs that an open job runs. They are found without a lock, and looked at again under it."""
    after = ""
    values = {"before_id": first_id("trace", before), "before": before}
    while True:
        with unit_of_work() as s:
            programs = _needed_programs(s, of.project_id)
            if programs is None:
                return
            some = {"project_id": of.project_id, "programs": programs, "after": after, "many": _AT_ONCE}
            found = s.execute(retention_sql.OLD_TRACES, {**values, **some}).all()
        removed = 0
        for start in range(0, len(found), _TRACES_AT_ONCE):
            digests = [row.digest for row in found[start : start + _TRACES_AT_ONCE]]
            removed += _remove_traces(of, {**values, "project_id": of.project_id, "digests": digests})
            if of.stopping.wait(_PAUSE_SECONDS):
                break
        if not found:
            return
        after = found[-1].id
        yield {"traces": removed}


def _remove_traces(of: _Round, values: Mapping[str, Any]) -> int:
    """Nobody makes a job of the project meanwhile."""
    with unit_of_work() as s:
        quotas.hold_jobs(s, of.project_id)
        programs = _needed_programs(s, of.project_id)
        if programs is None:
            return 0
        removed = erased.drop_traces(s, of.project_id, list(s.scalars(retention_sql.STILL_OLD, {**values, "programs": programs})))
        of.count(s, {"traces": removed})
    return removed


def _needed_programs(s: Session, project_id: str) -> list[str] | None:
    """Those whose traces stay; None where all stay, for a job of which it is not known yet what it takes."""
    own = {"project_id": project_id}
    return None if s.scalar(retention_sql.STARTING, own) else list(s.scalars(retention_sql.NEEDED_PROGRAMS, own))


def _events(of: _Round, before: datetime) -> Batches:
    while found := of.list_ids(retention_sql.JOBS_WITH_EVENTS, before=before):
        removed = sum(_without_events(of, job_id, before) for job_id in found if not of.stopping.is_set())
        yield {"events": removed}
        if not removed:
            return


def _without_events(of: _Round, job_id: str, before: datetime) -> int:
    removed, last = 0, erasing_sql.AT_ONCE
    while last == erasing_sql.AT_ONCE and not of.stopping.is_set():
        with unit_of_work() as s:
            if not clearing.may_clear(s, job_id, before):
                return removed
            last = s.execute(retention_sql.SOME_EVENTS, {"job_id": job_id, "many": erasing_sql.AT_ONCE}).rowcount  # type: ignore[attr-defined]
            if last < erasing_sql.AT_ONCE:
                s.execute(retention_sql.WITHOUT_EVENTS, {"job_id": job_id})
            of.count(s, {"events": last})
        removed += last
    return removed


def _job_details(of: _Round, before: datetime) -> Batches:
    def finish(s: Session, found: Mapping[str, int]) -> None:
        of.count(s, {"job_details": found["job_details"]})

    while found := of.list_ids(retention_sql.JOBS_WITH_DETAILS, before=before):
        done = sum(clearing.clear_job(job_id, of.stopping, finish, before) for job_id in found if not of.stopping.is_set())
        yield {"job_details": done}
        if not done:
            break
    with unit_of_work() as s:  # always: the round before may have been cut off here
        for statement in erasing_sql.MENTIONS_OF_ERASED_JOBS:
            s.execute(statement, {"project_id": of.project_id})


def _artifacts(of: _Round, before: datetime) -> Batches:
    after = ""
    while found := of.list_ids(retention_sql.OLD_ARTIFACTS, after=after, before=before):
        removed: Counter[str] = Counter()
        for artifact_id in found:
            with unit_of_work() as s:
                counts = erasing.retire_artifact(s, of.project_id, artifact_id, before)
                of.count(s, counts)
            removed += Counter(counts)
        after = found[-1]
        yield removed


def _audit_log(of: _Round, before: datetime) -> Batches:
    removed = _AT_ONCE
    while removed == _AT_ONCE:
        with unit_of_work() as s:
            values = {"project_id": of.project_id, "before_id": first_id("audit", before), "before": before, "many": _AT_ONCE}
            removed = s.execute(retention_sql.SOME_AUDIT_ENTRIES, values).rowcount  # type: ignore[attr-defined]
            of.count(s, {"audit_entries": removed})
        yield {"audit_entries": removed}


_KINDS: dict[str, Callable[[_Round, datetime], Batches]] = {
    "keep_traces_days": _traces,
    "keep_events_days": _events,
    "keep_job_details_days": _job_details,
    "keep_artifacts_days": _artifacts,
    "keep_audit_log_days": _audit_log,
}
