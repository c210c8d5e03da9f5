"""/v1/workers, /v1/queues and /v1/maintenance: who works, what waits, and whether work is taken, over all projects. For operators."""

from __future__ import annotations

from app.auth import Operator
from app.deps import BODY_ERRORS, SessionDep, router
from app.schemas.common import Page
from app.schemas.workers import MaintenanceIn, MaintenanceRead, QueueStateRead, WorkerRead
from app.views.convert import seconds
from distill.db import Session
from distill.jobs import gauges, maintenance, workers
from distill.jobs.workers import Seen

routes = router("operations")


@routes.get("/workers", summary="List worker processes")
def list_workers(caller: Operator, session: SessionDep) -> Page[WorkerRead]:
    """The oldest first; those that fell silent within the last hour are not `alive`. One that was stopped is gone at once."""
    draining = maintenance.is_drained(session)
    data = [_worker_read(row, draining) for row in workers.list_workers(session)]
    return Page(data=data, first_id=data[0].name if data else None, last_id=data[-1].name if data else None)


def _worker_read(row: Seen, draining: bool) -> WorkerRead:
    return WorkerRead(
        name=row.name,
        alive=row.alive,
        draining=draining,
        queues=row.queues,
        capabilities=row.capabilities,
        threads=row.threads,
        threads_busy=row.busy,
        threads_free=None if row.threads is None else max(0, row.threads - row.busy) if row.alive else 0,
        version=row.version,
        started_at=seconds(row.started_at),
        seen_at=seconds(row.seen_at),
    )


@routes.get("/queues", summary="List queues of work")
def list_queues(caller: Operator, session: SessionDep) -> Page[QueueStateRead]:
    """What is due and waits, and what runs, of all projects. The queue `client` is worked on by callers, over HTTP."""
    found = {
        gauge.name: {labels[0]: int(value) for labels, value in samples}
        for source in (gauges.QUEUES, gauges.WORKERS)
        for gauge, samples in gauges.read(session, source).items()
    }
    depths = found["queue_items"]
    data = [
        QueueStateRead(
            name=name,
            depth=depths[name],
            oldest_seconds=found["queue_oldest_seconds"][name] if depths[name] else None,
            running=found["queue_leased_items"][name],
            workers=found["workers"].get(name, 0),
            threads=found["worker_threads"].get(name, 0),
            threads_busy=found["worker_threads_busy"].get(name, 0),
        )
        for name in sorted(depths)
    ]
    return Page(data=data, first_id=data[0].name, last_id=data[-1].name)


@routes.get("/maintenance", summary="Read whether the server is drained")
def get_maintenance(caller: Operator, session: SessionDep) -> MaintenanceRead:
    """`running_items` at 0 means that nothing is worked on any more."""
    return _maintenance_read(session)


@routes.put("/maintenance", summary="Drain the server", responses=BODY_ERRORS)
def drain(caller: Operator, session: SessionDep, body: MaintenanceIn | None = None) -> MaintenanceRead:
    """New jobs get 503 `maintenance`; workers and clients finish or give back their work items and take none. Reading, downloads and
    calls of models go on. Draining again changes only the reason."""
    maintenance.begin(session, body.reason if body else None)
    return _maintenance_read(session)


@routes.delete("/maintenance", summary="End the drain")
def end_drain(caller: Operator, session: SessionDep) -> MaintenanceRead:
    """Jobs are taken again, and those that waited go on. No error where the server is not drained."""
    maintenance.end(session)
    return _maintenance_read(session)


def _maintenance_read(session: Session) -> MaintenanceRead:
    found = maintenance.read(session)
    since = None if found.since is None else seconds(found.since)
    return MaintenanceRead(draining=found.draining, since=since, reason=found.reason, running_items=found.running_items)
