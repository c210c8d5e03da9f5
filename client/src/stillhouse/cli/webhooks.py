"""`stillhouse webhooks …`."""

from __future__ import annotations

from typing import Annotated

import typer

from stillhouse.cli.output import Json, Limit, connected, console, show_json, show_once, show_rows, when

app = typer.Typer(no_args_is_help=True, help="Where events are delivered to. Needs the scope admin.")

Endpoint = Annotated[str, typer.Argument(help="Its id, whk-…")]


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="https://…")],
    events: Annotated[str, typer.Option(help="Types of events, with commas: compile_job.succeeded,compile_job.failed")],
    as_json: Json = False,
) -> None:
    """Have events delivered, and print the secret that checks them, which is shown only this once."""
    with connected() as client:
        made = client.webhook_endpoints.create(url, [name.strip() for name in events.split(",")])
    show_once(made, made.secret, f"{made.id}: {made.url}", "secret", "delete", as_json)


@app.command("list")
def list_endpoints(limit: Limit = 20, as_json: Json = False) -> None:
    """List endpoints, newest first."""
    with connected() as client:
        show_rows(
            client.webhook_endpoints.list(limit=limit).data,
            [
                ("ID", lambda endpoint: endpoint.id),
                ("URL", lambda endpoint: endpoint.url),
                ("EVENTS", lambda endpoint: " ".join(endpoint.events)),
                ("DISABLED", lambda endpoint: when(endpoint.disabled_at)),
            ],
            as_json,
        )


@app.command()
def delete(endpoint: Endpoint, as_json: Json = False) -> None:
    """Take an endpoint away; its deliveries go with it."""
    with connected() as client:
        client.webhook_endpoints.delete(endpoint)
        show_json({"id": endpoint, "deleted": True}) if as_json else console.print(f"{endpoint} is gone", highlight=False)


@app.command()
def deliveries(endpoint: Endpoint, limit: Limit = 20, as_json: Json = False) -> None:
    """Show what was sent to an endpoint, newest first."""
    with connected() as client:
        show_rows(
            client.webhook_endpoints.deliveries(endpoint, limit=limit).data,
            [
                ("ID", lambda sent: sent.id),
                ("TYPE", lambda sent: sent.type),
                ("STATUS", lambda sent: sent.status),
                ("TRIES", lambda sent: sent.attempts),
                ("LAST", lambda sent: sent.last_error or sent.last_status),
                ("NEXT", lambda sent: when(sent.next_attempt_at)),
            ],
            as_json,
        )


@app.command()
def redeliver(endpoint: Endpoint, delivery: Annotated[str, typer.Argument(help="Its id, evt-…")], as_json: Json = False) -> None:
    """Send an event again, with the same id and body."""
    with connected() as client:
        sent = client.webhook_endpoints.redeliver(endpoint, delivery)
        show_json(sent) if as_json else console.print(f"{sent.id} is {sent.status}", highlight=False)
