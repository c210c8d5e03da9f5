"""How the server stands now, for metrics: numbers of open work, workers, connections and blobs.

Each statement reads through an index of what is open, or a table that stays small, so that its cost does not grow with the jobs and traces
that were ever made. The sum over all blobs is the exception: callers ask for it seldom.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import TextClause, text

from distill.db import Session
from distill.jobs.workers import silence_seconds


@dataclass(frozen=True, slots=True)
class Gauge:
    """A column of a statement's rows; the columns `labels` tell its series apart."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A statement and its gauges, which are named as its columns are."""

    statement: TextClause
    gauges: tuple[Gauge, ...]


Sample = tuple[tuple[str, ...], float]
"""The values of a gauge's labels, and its value."""

_JOBS = Source(
    text("""
SELECT p.name AS project, j.status, count(*) AS jobs FROM jobs j JOIN projects p ON p.id = j.project_id
 WHERE j.status IN ('queued', 'running', 'paused') GROUP BY 1, 2
"""),
    (Gauge("jobs", "Jobs that are queued, running or paused", ("project", "status")),),
)
# The items of paused jobs wait for nobody's turn.
QUEUES = Source(
    text("""
SELECT q.queue, COALESCE(i.items, 0) AS queue_items, COALESCE(EXTRACT(epoch FROM clock_timestamp() - i.oldest), 0) AS queue_oldest_seconds,
       (SELECT count(*) FROM work_items l WHERE l.status = 'leased' AND l.queue = q.queue) AS queue_leased_items
  FROM unnest(ARRAY['light', 'rollouts', 'train', 'client']) AS q(queue)
  LEFT JOIN (SELECT w.queue, count(*) AS items, min(GREATEST(w.created_at, w.run_after)) AS oldest
               FROM work_items w JOIN jobs j ON j.id = w.job_id
              WHERE w.status = 'queued' AND NOT w.held AND w.run_after <= clock_timestamp() AND j.status IN ('queued', 'running')
                AND j.cancel_requested_at IS NULL AND j.pause_requested_at IS NULL GROUP BY w.queue) i ON i.queue = q.queue
"""),
    (
        Gauge("queue_items", "Work items that are due and not yet claimed", ("queue",)),
        Gauge("queue_oldest_seconds", "How long the oldest of them has been due", ("queue",)),
        Gauge("queue_leased_items", "Work items that a worker or client works on", ("queue",)),
    ),
)
WORKERS = Source(
    text("""
SELECT q.queue, count(w.name) AS workers, COALESCE(sum(w.threads), 0) AS worker_threads, COALESCE(sum(w.busy), 0) AS worker_threads_busy
  FROM unnest(ARRAY['light', 'rollouts', 'train']) AS q(queue)
  LEFT JOIN (SELECT v.name, v.queues, v.threads,
                    (SELECT count(*) FROM work_items i WHERE i.status = 'leased' AND i.lease_owner = v.name) AS busy
               FROM workers v WHERE v.seen_at > clock_timestamp() - make_interval(secs => :silence)) w ON q.queue = ANY (w.queues)
 GROUP BY q.queue
"""),
    (
        Gauge("workers", "Live workers that listen to a queue", ("queue",)),
        Gauge("worker_threads", "Their threads; one that listens to several queues counts for each", ("queue",)),
        Gauge("worker_threads_busy", "Those that have a work item", ("queue",)),
    ),
)
_GONE = Source(
    text("SELECT count(*) AS workers_gone FROM workers WHERE seen_at <= clock_timestamp() - make_interval(secs => :silence)"),
    (Gauge("workers_gone", "Workers that fell silent within the last hour without having been stopped"),),
)
_DEVICES = Source(
    text("""
SELECT d.id AS device, h.holder,
       CAST((h.holder = 'trainer') = (d.item_id IS NOT NULL AND d.lease_expires_at > clock_timestamp()) AS integer) AS device_held
  FROM devices d CROSS JOIN (VALUES ('trainer'), ('lm_host')) AS h(holder)
"""),
    (Gauge("device_held", "1 for who has the device: a trainer that leases it, else the LM host", ("device", "holder")),),
)
_CONNECTIONS = Source(
    text("""
SELECT COALESCE(c.own_name, c.name) AS connection, COALESCE(p.name, '') AS project,
       CAST(c.limited_since IS NOT NULL AS integer) AS connection_waiting,
       COALESCE(EXTRACT(epoch FROM clock_timestamp() - c.limited_since), 0) AS connection_waiting_seconds
  FROM connections c LEFT JOIN projects p ON p.id = c.project_id WHERE c.removed_at IS NULL AND c.disabled_at IS NULL
"""),
    (
        Gauge("connection_waiting", "1 while a connection's LM host takes no calls, and work waits for it", ("connection", "project")),
        Gauge("connection_waiting_seconds", "For how long", ("connection", "project")),
    ),
)
_OUTBOX = Source(
    text("""
SELECT count(*) AS outbox_hints, COALESCE(EXTRACT(epoch FROM clock_timestamp() - min(created_at)), 0) AS outbox_oldest_seconds
  FROM outbox WHERE sent_at IS NULL
"""),
    (
        Gauge("outbox_hints", "Hints that the dispatcher has not sent yet"),
        Gauge("outbox_oldest_seconds", "How long the oldest of them has waited"),
    ),
)
_WEBHOOKS = Source(
    text("SELECT count(*) AS webhook_deliveries_pending FROM webhook_deliveries WHERE status = 'pending'"),
    (Gauge("webhook_deliveries_pending", "Deliveries that are still to be made, or to be tried again"),),
)
_COLLECTED = Source(
    text("""
SELECT COALESCE((SELECT EXTRACT(epoch FROM CAST(value AS timestamptz)) FROM server_meta WHERE key = 'collected_at'), 0)
         AS blobs_collected_timestamp_seconds
"""),
    (Gauge("blobs_collected_timestamp_seconds", "When unused blobs were last collected, in Unix time; 0 for never"),),
)
_DRAINING = Source(
    text("SELECT count(*) AS draining FROM server_meta WHERE key = 'drain'"),
    (Gauge("draining", "1 while the server takes no new jobs, and workers take no work"),),
)
SOURCES = (_JOBS, QUEUES, WORKERS, _GONE, _DEVICES, _CONNECTIONS, _OUTBOX, _WEBHOOKS, _COLLECTED, _DRAINING)
BLOBS = Source(
    text("SELECT count(*) AS blobs, COALESCE(sum(size_bytes), 0) AS blob_bytes FROM blobs"),
    (Gauge("blobs", "Blobs in the store"), Gauge("blob_bytes", "Their size")),
)


_PROJECT_NAMES = text("SELECT id, name FROM projects")
_CONNECTION_NAMES = text("""
SELECT c.id, COALESCE(c.own_name, c.name) AS name, COALESCE(p.name, '') AS project
  FROM connections c LEFT JOIN projects p ON p.id = c.project_id
""")


def names_of_projects(s: Session) -> dict[str, str]:
    """By id."""
    return {row.id: row.name for row in s.execute(_PROJECT_NAMES)}


def names_of_connections(s: Session) -> dict[str, tuple[str, str]]:
    """By id, with the name of the project that they belong to; that of the operator's is empty."""
    return {row.id: (row.name, row.project) for row in s.execute(_CONNECTION_NAMES)}


def read(s: Session, source: Source) -> dict[Gauge, list[Sample]]:
    """The samples of each gauge of a source."""
    values = {"silence": silence_seconds()} if ":silence" in source.statement.text else {}
    rows = list(s.execute(source.statement, values).mappings())
    return {gauge: [(tuple(str(row[label]) for label in gauge.labels), float(row[gauge.name])) for row in rows] for gauge in source.gauges}
