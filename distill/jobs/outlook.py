"""What the rest of a job would ask of LMs, at the rate so far: an estimate for whoever decides on its budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text

from distill.catalog import programs
from distill.db import Session
from distill.jobs import repository
from distill.jobs.models import Job
from distill.spec import CompileSpec, calls_of_a_rollout

_LEFT = text("""
SELECT kind, sum(units) AS units, sum(CASE WHEN status = 'succeeded' THEN units ELSE LEAST(units, COALESCE(done, 0)) END) AS done
  FROM (SELECT kind, status, units, CAST(progress ->> 'done' AS bigint) AS done
          FROM work_items WHERE job_id = :job_id AND step IN ('bootstrap', 'evaluate')) AS items
 GROUP BY kind
""")
_PAID = text("""
SELECT CASE WHEN role LIKE 'demos%' THEN 'demos' ELSE role END AS kind, sum(calls) AS calls,
       sum(prompt_tokens + completion_tokens) AS tokens,
       CASE WHEN bool_or(usd IS NULL) THEN NULL ELSE sum(usd) END AS usd
  FROM lm_usage WHERE job_id = :job_id AND kind = 'paid' GROUP BY 1
""")


@dataclass(frozen=True, slots=True)
class Outlook:
    """LM calls, tokens and dollars that are still to come; None for what cannot be told yet."""

    calls: float | None = None
    tokens: float | None = None
    usd: float | None = None


def outlook(s: Session, job: Job) -> Outlook:
    """Each role goes on as it did so far; one that has not begun makes the calls of its program, each as those of its side were."""
    spec = repository.spec_of(job)
    left = {row.kind: row for row in s.execute(_LEFT, {"job_id": job.id}) if _asks(spec, row.kind)}
    if not left:
        return Outlook()
    paid = {row.kind: row for row in s.execute(_PAID, {"job_id": job.id}) if row.calls}
    parts = [_part(s, spec, row, paid) for row in left.values() if row.units > row.done]
    return Outlook(*(_sum([getattr(part, name) for part in parts]) for name in ("calls", "tokens", "usd")))


def _asks(spec: CompileSpec, kind: str) -> bool:
    """Whether a role's rollouts call LMs: labels and stored traces do not."""
    if not kind.startswith("teacher"):
        return True
    return not spec.rollouts.stored_only and not (spec.teacher == "labels" and ":" in kind)


def _part(s: Session, spec: CompileSpec, row: Row[Any], paid: Mapping[str, Row[Any]]) -> Outlook:
    own = paid.get(row.kind)
    an_example = float(own.calls) / int(row.done) if own is not None and row.done else _planned(s, spec, row.kind)
    if an_example is None:
        return Outlook()
    calls = an_example * (int(row.units) - int(row.done))
    alike = [own] if own is not None else [other for kind, other in paid.items() if _side(kind) == _side(row.kind)]
    if not alike:
        return Outlook(calls)
    made = float(sum(other.calls for other in alike))
    usd = _sum([other.usd for other in alike])
    return Outlook(calls, calls * float(sum(other.tokens for other in alike)) / made, None if usd is None else calls * usd / made)


def _planned(s: Session, spec: CompileSpec, kind: str) -> float | None:
    """The calls of one rollout, as the program says; of code nothing is known."""
    number = int(kind.partition(":")[2] or 0) if kind.startswith("teacher") else None
    program_id = spec.program_id if number is None else (spec.teachers[number].program_id or spec.program_id)
    return calls_of_a_rollout(programs.load(s, program_id))


def _side(kind: str) -> str:
    return "teacher" if kind.startswith("teacher") else "student"


def _sum(parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
