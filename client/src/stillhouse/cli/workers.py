"""`stillhouse workers …`, `stillhouse queues …` and `stillhouse maintenance …`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from stillhouse.cli.output import Json, connected, console, show_json, show_rows, when
from stillhouse.types.workers import MaintenanceState

workers = typer.Typer(no_args_is_help=True, help="Worker processes of the server. For operators.")
queues = typer.Typer(no_args_is_help=True, help="Queues of work, over all projects. For operators.")
maintenance = typer.Typer(no_args_is_help=True, help="Refuse new jobs and stop work, over all projects. For operators.")


@workers.command("list")
def list_workers(as_json: Json = False) -> None:
    """List worker processes, the oldest first; those that fell silent stay for an hour."""
    with connected() as client:
        show_rows(
            client.workers.list().data,
            [
                ("NAME", lambda worker: worker.name),
                ("ALIVE", lambda worker: "yes" if worker.alive else "no"),
                ("DRAINING", lambda worker: "yes" if worker.draining else "no"),
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


@maintenance.command("begin")
def begin_maintenance(
    reason: Annotated[str | None, typer.Option(help="Callers whose jobs are refused read it.")] = None, as_json: Json = False
) -> None:
    """Drain the server: new jobs are refused, running work is finished or given back."""
    with connected() as client:
        _show(client.maintenance.begin(reason), as_json)


@maintenance.command("end")
def end_maintenance(as_json: Json = False) -> None:
    """Take jobs again; those that waited go on."""
    with connected() as client:
        _show(client.maintenance.end(), as_json)


@maintenance.command("status")
def maintenance_status(as_json: Json = False) -> None:
    """Show whether the server is drained, and how many work items are still held."""
    with connected() as client:
        _show(client.maintenance.retrieve(), as_json)


def _show(state: MaintenanceState, as_json: bool) -> None:
    if as_json:
        show_json(state)
    elif state.draining:
        reason = f" ({escape(state.reason)})" if state.reason else ""
        console.print(f"Draining since {when(state.since)}{reason}; work items still held: {state.running_items}", highlight=False)
    else:
        console.print("Not draining", highlight=False)
