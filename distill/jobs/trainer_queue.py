"""Trainers and the devices that they share with LM hosts: who holds one, who waits for one, in which order and for how long."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Row, text

from distill.catalog.devices import GRANTED
from distill.db import Session
from distill.jobs.models import FineTuneJob
from distill.jobs.status import FineTuneStatus, Step

Resource = Literal["trainer", "device"]

# A leased training whose device is not granted to it occupies a trainer and does not train yet.
_WAITS_FOR_DEVICE = f"(c.device IS NOT NULL AND NOT COALESCE({GRANTED}, false))"
_TRAININGS = """
WITH running AS (
  SELECT j.project_id, count(*) AS items FROM work_items w JOIN jobs j ON j.id = w.job_id WHERE w.status = 'leased' GROUP BY j.project_id
)
SELECT w.id, w.job_id, w.needs, w.status = 'leased' AS leased, w.status = 'leased' AND NOT {waits} AS trains, c.device,
       COALESCE(d.acknowledged_at, w.started_at) AS since, j.project_id, j.name, j.created_by, k.label AS owner,
       f.trainer, f.base_model, f.rows, CAST(f.progress ->> 'seconds_remaining' AS float) AS seconds_remaining,
       EXTRACT(epoch FROM clock_timestamp() - COALESCE(d.acknowledged_at, w.started_at)) AS elapsed, p.share, COALESCE(r.items, 0) AS busy
  FROM work_items w
  JOIN jobs j ON j.id = w.job_id
  JOIN projects p ON p.id = j.project_id
  JOIN fine_tune_jobs f ON f.id = w.fine_tune_job_id
  JOIN connections c ON c.id = f.connection_id
  LEFT JOIN devices d ON d.id = c.device
  LEFT JOIN api_keys k ON k.id = j.created_by
  LEFT JOIN running r ON r.project_id = j.project_id
 WHERE w.queue = 'train'
   AND (w.status = 'leased'
        OR w.status = 'queued' AND NOT w.held AND w.run_after <= clock_timestamp()
           AND j.status IN ('queued', 'running') AND j.cancel_requested_at IS NULL AND j.pause_requested_at IS NULL)
 ORDER BY w.status = 'leased' DESC, CASE WHEN w.status = 'leased' THEN w.started_at END,
          p.share * EXTRACT(epoch FROM statement_timestamp() - p.served_at) DESC NULLS FIRST, p.id,
          j.priority DESC, j.created_at, j.id, w.created_at, w.id
"""
_TRAININGS_READ = text(_TRAININGS.format(waits=_WAITS_FOR_DEVICE))
_TYPICAL = text("""
SELECT trainer, base_model, percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds / rows) AS per_row
  FROM (SELECT trainer, base_model, rows, CAST(result ->> 'seconds' AS float) AS seconds
          FROM fine_tune_jobs WHERE status = 'succeeded' AND reused_from IS NULL AND rows > 0 ORDER BY id DESC LIMIT 200) newest
 WHERE seconds IS NOT NULL GROUP BY trainer, base_model
""")


@dataclass(frozen=True, slots=True)
class Holder:
    """A job that trains now. `since` is when it got the trainer, or the device where it needs one."""

    job_id: str
    project_id: str
    name: str | None
    created_by: str | None
    owner: str | None
    since: int
    seconds_remaining: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """A job's place among those that wait for the same thing; `seconds` is None where nobody can say."""

    resource: Resource
    position: int
    device: str | None
    held_by: tuple[Holder, ...]
    seconds: int | None

    @property
    def reason(self) -> str:
        what = f"the device {self.device}" if self.resource == "device" else "a trainer"
        if not self.held_by:
            return f"waits for {what}, which its LM host hands over"
        ahead = self.position - 1
        place = f"{ahead} {'job' if ahead == 1 else 'jobs'} ahead" if ahead else "next in turn"
        return f"waits for {what}: {place}"


@dataclass
class TrainerQueue:
    """All trainings that run or could run now."""

    places: dict[str, Place] = field(default_factory=dict)
    """Of jobs none of whose trainings runs."""
    holders: dict[str, Holder] = field(default_factory=dict)
    """By device."""


_ACTIVE = """
SELECT w.job_id, w.step, w.fine_tune_job_id
  FROM work_items w
  LEFT JOIN fine_tune_jobs f ON f.id = w.fine_tune_job_id
  LEFT JOIN connections c ON c.id = f.connection_id
  LEFT JOIN devices d ON d.id = c.device
 WHERE w.job_id = ANY (:ids) AND w.status = 'leased' AND (w.fine_tune_job_id IS NULL OR NOT {waits})
"""
_ACTIVE_READ = text(_ACTIVE.format(waits=_WAITS_FOR_DEVICE))


@dataclass(frozen=True, slots=True)
class Active:
    """Parts of jobs that run now: an item that waits for its device does not."""

    jobs: frozenset[str]
    steps: frozenset[tuple[str, str]]
    fine_tune_jobs: frozenset[str]

    @classmethod
    def read(cls, s: Session, job_ids: Collection[str]) -> Active:
        rows = s.execute(_ACTIVE_READ, {"ids": list(job_ids)}).all() if job_ids else []
        return cls(
            frozenset(row.job_id for row in rows),
            frozenset((row.job_id, str(Step(row.step).public)) for row in rows),
            frozenset(row.fine_tune_job_id for row in rows if row.fine_tune_job_id is not None),
        )

    def status_of(self, one: FineTuneJob) -> str:
        """`queued` for a training that has begun and waits now."""
        waits = one.status == FineTuneStatus.RUNNING and one.id not in self.fine_tune_jobs
        return str(FineTuneStatus.QUEUED) if waits else one.status


def read(s: Session) -> TrainerQueue:
    typical = {(row.trainer, row.base_model): float(row.per_row) for row in s.execute(_TYPICAL)}
    pools: dict[tuple[str, ...], list[Row[Any]]] = {}
    for row in s.execute(_TRAININGS_READ):
        pools.setdefault(tuple(row.needs), []).append(row)
    found = TrainerQueue()
    for rows in pools.values():
        training = [row for row in rows if row.trains]
        holders = {row.id: _holder(row, typical) for row in training}
        found.holders.update({row.device: holders[row.id] for row in training if row.device is not None})
        found.places.update(_places(rows, list(holders.values()), typical, found.holders))
    return found


def _holder(row: Row[Any], typical: Mapping[tuple[str, str], float]) -> Holder:
    left = row.seconds_remaining
    if left is None and (usual := _usual_seconds(row, typical)) is not None and usual > row.elapsed:
        left = usual - float(row.elapsed)
    seconds = None if left is None else math.ceil(left)
    return Holder(row.job_id, row.project_id, row.name, row.created_by, row.owner, int(row.since.timestamp()), seconds)


def _usual_seconds(row: Row[Any], typical: Mapping[tuple[str, str], float]) -> float | None:
    per_row = typical.get((row.trainer, row.base_model))
    return None if per_row is None or not row.rows else per_row * row.rows


def _places(
    rows: Sequence[Row[Any]], holders: Sequence[Holder], typical: Mapping[tuple[str, str], float], by_device: Mapping[str, Holder]
) -> dict[str, Place]:
    """Places of the jobs of one pool, each by the first of its trainings that comes."""
    busy = {holder.job_id for holder in holders}
    places: dict[str, Place] = {}
    ahead: list[float | None] = []
    waiting = [row for row in rows if row.leased and not row.trains] + _in_turn([row for row in rows if not row.leased])
    position = 0
    for row in waiting:
        if row.job_id not in busy and row.job_id not in places:
            position += 1
            seconds = _wait([holder.seconds_remaining for holder in holders], ahead)
            held_by = tuple(holders)
            if row.leased:
                held_by = (by_device[row.device],) if row.device in by_device else ()
            places[row.job_id] = Place("device" if row.leased else "trainer", position, row.device, held_by, seconds)
        ahead.append(_usual_seconds(row, typical))
    return places


def _in_turn(rows: Iterable[Row[Any]]) -> list[Row[Any]]:
    """As claims take them: each goes to the project with the fewest running items for its share, and counts as running then."""
    counted: dict[str, int] = {}
    ordered: list[tuple[float, int, Row[Any]]] = []
    for number, row in enumerate(rows):
        before = counted.setdefault(row.project_id, 0)
        counted[row.project_id] += 1
        ordered.append(((row.busy + before) / row.share, number, row))
    return [row for *_, row in sorted(ordered, key=lambda each: each[:2])]


def _wait(left: Sequence[int | None], ahead: Sequence[float | None]) -> int | None:
    """Until one of the trainings that run is over, and those ahead had their turn."""
    if not left or None in left or None in ahead:
        return None
    free = [float(seconds or 0) for seconds in left]
    heapq.heapify(free)
    for seconds in ahead:
        heapq.heapreplace(free, free[0] + float(seconds or 0))
    return math.ceil(free[0])
