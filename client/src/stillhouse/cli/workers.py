"""`stillhouse workers …` and `stillhouse queues …`."""

from __future__ import annotations

import typer

from stillhouse.cli.output import Json, connected, show_rows, when

workers = typer.Typer(no_args_is_help=True, help="Worker processes of the server. For operators.")
queues = typer.Typer(no_args_is_help=True, help="Queues of work, over all projects. For operators.")


@workers.command("list")
def list_workers(as_json: Json = False) -> None:
    """List worker processes, the oldest first; those that fell silent stay for an hour."""
    with connected() as client:
        show_rows(
            client.workers.list().data,
            [
                ("NAME", lambda worker: worker.name),
                ("ALIVE", lambda worker: "yes" if worker.alive else "no"),
                ("QUEUES", lambda worker: " ".join(worker.queues)),
                ("BUSY", lambda worker: worker.threads_busy),
                ("FREE", lambda worker: worker.threads_free),
                ("VERSION", lambda worker: worker.version),
                ("SINCE", lambda worker: when(worker.started_at)),
            ],
            as_json,
        )


@queues.command("list")
def list_queues(as_json: Json = False) -> None:
    """List queues: what waits, for how long, and what runs."""
    with connected() as client:
        show_rows(
            client.queues.list().data,
            [
                ("QUEUE", lambda queue: queue.name),
                ("WAITING", lambda queue: queue.depth),
                ("OLDEST, S", lambda queue: queue.oldest_seconds),
                ("RUNNING", lambda queue: queue.running),
                ("WORKERS", lambda queue: queue.workers),
                ("THREADS BUSY", lambda queue: f"{queue.threads_busy}/{queue.threads}"),
            ],
            as_json,
        )
