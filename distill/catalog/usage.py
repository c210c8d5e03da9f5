"""What LM calls were paid for or saved: written for each claim, read as sums by job, side and model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import case, func, select, text
from sqlalchemy.dialects.postgresql import insert

from distill.catalog.facts import LmUsage
from distill.db import Session

Kind = Literal["paid", "saved"]
Side = Literal["teacher", "student"]


@dataclass(frozen=True, slots=True)
class NewUsage:
    """Of one claim (item and fence) and one model, `connection/model`. `usd` is None where the price is not known."""

    item_id: int
    fence: int
    kind: Kind
    model: str
    project_id: str
    job_id: str
    role: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    seconds: float
    usd: float | None


@dataclass(frozen=True, slots=True)
class LmCost:
    """The sum over a job's claims. The `teacher` side is bootstrap and the teacher's evaluation; all other roles are the student's."""

    kind: Kind
    side: Side
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    usd: float | None


def sum_usd(parts: Iterable[float | None]) -> float | None:
    """None where a part is not known."""
    known = list(parts)
    return None if None in known else rounded_usd(sum(part for part in known if part is not None))


def rounded_usd(usd: float | None) -> float | None:
    """To a millionth of a dollar: one small call costs a few of them."""
    return None if usd is None else round(usd, 6)


_NUMBER = text("SELECT nextval(pg_get_serial_sequence('work_items', 'id'))")
_TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens")


def record(s: Session, rows: Iterable[NewUsage]) -> None:
    """All that a claim has used so far; what it told before is replaced."""
    values = [{name: getattr(row, name) for name in NewUsage.__dataclass_fields__} for row in rows]
    if values:
        told = insert(LmUsage).values(values)
        again = {name: told.excluded[name] for name in ("calls", *_TOKENS, "seconds", "usd")}
        s.execute(told.on_conflict_do_update(index_elements=["item_id", "fence", "kind", "model"], set_=again))


def number_without_claim(s: Session) -> int:
    """In place of an item's, which has it never: for what was asked outside of a claim."""
    return int(s.execute(_NUMBER).scalar_one())


def of_jobs(s: Session, job_ids: Sequence[str]) -> Mapping[str, list[LmCost]]:
    """`{job id: its sums}`, in one query."""
    side = case((LmUsage.role.like("teacher%"), "teacher"), else_="student")
    usd = case((func.bool_or(LmUsage.usd.is_(None)), None), else_=func.sum(LmUsage.usd))
    counts = (LmUsage.calls, LmUsage.prompt_tokens, LmUsage.completion_tokens, LmUsage.cached_tokens)
    keys = (LmUsage.job_id, LmUsage.kind, side, LmUsage.model)
    query = select(*keys, *[func.sum(count) for count in counts], usd).where(LmUsage.job_id.in_(list(job_ids)))
    found: dict[str, list[LmCost]] = defaultdict(list)
    for job_id, kind, of, model, calls, prompt, completion, cached, cost in s.execute(query.group_by(*keys).order_by(*keys)):
        found[job_id].append(LmCost(kind, of, model, int(calls), int(prompt), int(completion), int(cached), cost))
    return found
