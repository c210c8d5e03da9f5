"""Where jobs stand in line, and why their queued work does not run. At most three statements for a whole page of jobs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text

from distill.catalog.waits import SAID
from distill.db import Session
from distill.jobs import trainer_queue
from distill.jobs.models import Job
from distill.jobs.status import JobStatus, Queue, Step
from distill.jobs.trainer_queue import Holder, Place, Resource, TrainerQueue
from distill.jobs.workers import silence_seconds
from distill.settings import get_settings

# Only the work of the earliest open step: what waits in a later one holds nothing up yet.
_LOOK = text("""
WITH asked AS (
  SELECT id, project_id, num_threads, step FROM jobs WHERE id = ANY (:ids)
), line AS (
  SELECT id, row_number() OVER (PARTITION BY project_id ORDER BY priority DESC, created_at, id) AS position
    FROM jobs WHERE status = 'queued' AND project_id IN (SELECT project_id FROM asked)
), alive AS (
  SELECT queues, capabilities FROM workers WHERE seen_at > clock_timestamp() - make_interval(secs => :silence)
), kinds AS (
  SELECT w.job_id, w.queue, w.needs, w.connections, w.held, min(w.run_after) AS run_after
    FROM work_items w JOIN asked a ON a.id = w.job_id AND a.step = replace(w.step, 'assemble', 'prepare')
   WHERE w.status = 'queued' GROUP BY w.job_id, w.queue, w.needs, w.connections, w.held
), leased AS (
  SELECT w.job_id, j.project_id, sum(w.width) AS width
    FROM work_items w JOIN jobs j ON j.id = w.job_id WHERE w.status = 'leased' GROUP BY w.job_id, j.project_id
), projects_widths AS (
  SELECT project_id, sum(width) AS width FROM leased GROUP BY project_id
)
SELECT a.id AS job_id, a.step, line.position, COALESCE(l.width, 0) AS width, a.num_threads, p.max_threads AS of_project,
       EXISTS (SELECT FROM server_meta WHERE key = 'drain') AS drained, COALESCE(pw.width, 0) AS project_width,
       (SELECT COALESCE(sum(width), 0) FROM leased) AS everybodys_width, k.queue, k.needs, k.held,
       EXTRACT(epoch FROM k.run_after - clock_timestamp()) AS seconds, c.name, c.reason, c.device,
       EXISTS (SELECT 1 FROM alive WHERE k.queue = ANY (queues)) AS listened,
       EXISTS (SELECT 1 FROM alive WHERE k.queue = ANY (queues) AND k.needs <@ capabilities) AS manned
  FROM asked a
  JOIN projects p ON p.id = a.project_id
  LEFT JOIN projects_widths pw ON pw.project_id = a.project_id
  LEFT JOIN line ON line.id = a.id
  LEFT JOIN leased l ON l.job_id = a.id
  LEFT JOIN kinds k ON k.job_id = a.id
  LEFT JOIN LATERAL (
    SELECT COALESCE(own_name, name) AS name, device, CASE WHEN waiting_since IS NOT NULL THEN 'device' ELSE limited_reason END AS reason
      FROM connections WHERE id = ANY (k.connections) AND (waiting_since IS NOT NULL OR limited_since IS NOT NULL) ORDER BY name LIMIT 1
  ) c ON true
 ORDER BY a.id, k.queue, k.needs, c.name
""")


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a job's work does not run now.

    `position` is 1-based: among all jobs that wait for the `resource`, else among the project's jobs that have not begun. `seconds` is
    how long the wait for the resource may take, None where nobody can say.
    """

    position: int | None
    reason: str
    resource: Resource | None = None
    held_by: tuple[Holder, ...] = ()
    seconds: int | None = None


def waiting(s: Session, jobs: Sequence[Job]) -> dict[str, Waiting]:
    """`{job id: why it waits}`; nothing of a job that is over or paused, or all of whose work runs."""
    open_jobs = {job.id: job for job in jobs if JobStatus(job.status).is_claimable and job.cancel_requested_at is None}
    kinds: dict[str, list[Row[Any]]] = {}
    for row in s.execute(_LOOK, {"ids": list(open_jobs), "silence": silence_seconds()}) if open_jobs else ():
        kinds.setdefault(row.job_id, []).append(row)
    rows = [row for each in kinds.values() for row in each]
    trainers = trainer_queue.read(s) if any(row.step == Step.TRAIN or row.device for row in rows) else TrainerQueue()
    found = {job_id: _waiting(each, trainers) for job_id, each in kinds.items()}
    return {job_id: each for job_id, each in found.items() if each is not None}


def _waiting(rows: Sequence[Row[Any]], trainers: TrainerQueue) -> Waiting | None:
    first = rows[0]
    if first.drained and first.queue is not None:
        return Waiting(first.position, "the server is under maintenance: work goes on afterwards")
    place = trainers.places.get(first.job_id) if first.step == Step.TRAIN else None
    if place is not None and place.resource == "device":
        return _placed(place)
    reason = _reason(rows, _TELLERS)
    if reason is None and place is not None and place.held_by:
        return _placed(place)
    if reason is None:
        reason = _reason(rows, _LAST_TELLERS)
    if reason is None:
        return None
    holder = next((trainers.holders[row.device] for row in rows if row.device in trainers.holders), None)
    if holder is not None:
        return Waiting(first.position, reason, "device", (holder,), holder.seconds_remaining)
    return Waiting(first.position, reason)


def _placed(place: Place) -> Waiting:
    return Waiting(place.position, place.reason, place.resource, place.held_by, place.seconds)


def _reason(rows: Sequence[Row[Any]], tellers: Sequence[Callable[[Row[Any]], str | None]]) -> str | None:
    """The most telling reason of any kind of work that is queued."""
    queued = [row for row in rows if row.queue is not None]
    free = [row for row in queued if not row.held]
    if queued and not free:
        return "the compiled program is measured when its training is over and its models are loaded"
    return next((reason for tell in tellers for row in free if (reason := tell(row)) is not None), None)


def _connection(row: Row[Any]) -> str | None:
    return f"waiting for {row.name}: {SAID[row.reason]}" if row.name is not None else None


def _worker(row: Row[Any]) -> str | None:
    if row.manned or row.queue == Queue.CLIENT:
        return None
    needs = f" with {', '.join(row.needs)}" if row.listened else ""
    return f"no worker{needs} is alive for the queue {row.queue}"


def _later(row: Row[Any]) -> str | None:
    return f"will be tried again in {math.ceil(row.seconds)} s" if row.seconds > 0 else None


def _line(row: Row[Any]) -> str | None:
    if row.width:
        return None
    ahead = (row.position or 1) - 1
    return f"{ahead} {'job' if ahead == 1 else 'jobs'} ahead in the project" if ahead else "waits for a worker"


def _width(row: Row[Any]) -> str | None:
    return f"all {row.num_threads} threads of the job are in use" if row.width >= row.num_threads else None


def _caps(row: Row[Any]) -> str | None:
    if row.of_project is not None and row.project_width >= row.of_project:
        return f"all {row.of_project} threads of the project are in use"
    everybody = get_settings().limits.max_threads
    if everybody is not None and row.everybodys_width >= everybody:
        return f"all {everybody} threads of the server are in use"
    return None


def _client(row: Row[Any]) -> str | None:
    """Nobody knows whether a client is there before it claims."""
    if row.queue != Queue.CLIENT or row.width:
        return None
    return "waits for a client: the program runs in its caller's own process. Make the same call again there, and it goes on"


_TELLERS: tuple[Callable[[Row[Any]], str | None], ...] = (_connection, _client, _worker, _later, _caps)
_LAST_TELLERS: tuple[Callable[[Row[Any]], str | None], ...] = (_line, _width)
