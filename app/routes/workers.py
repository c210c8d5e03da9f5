"""/v1/workers and /v1/queues: who works, and what waits, over all projects. For operators."""

from __future__ import annotations

from app.auth import Operator
from app.deps import SessionDep, router
from app.schemas.common import Page
from app.schemas.workers import QueueStateRead, WorkerRead
from app.views.convert import seconds
from distill.jobs import gauges, workers
from distill.jobs.workers import Seen

routes = router("operations")


@routes.get("/workers", summary="List worker processes")
def list_workers(caller: Operator, session: SessionDep) -> Page[WorkerRead]:
    """The oldest first; those that fell silent within the last hour are not `alive`. One that was stopped is gone at once."""
    data = [_worker_read(row) for row in workers.list_workers(session)]
    return Page(data=data, first_id=data[0].name if data else None, last_id=data[-1].name if data else None)


def _worker_read(row: Seen) -> WorkerRead:
    return WorkerRead(
        name=row.name,
        alive=row.alive,
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
