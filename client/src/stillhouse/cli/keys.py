"""`stillhouse keys …`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from stillhouse.cli.output import Json, Limit, connected, console, show_json, show_once, show_rows, when

app = typer.Typer(no_args_is_help=True, help="API keys of the project. Needs the scope admin.")


@app.command()
def create(
    label: Annotated[str | None, typer.Option(help="Who or what will use the key.")] = None,
    scopes: Annotated[str | None, typer.Option(help="With commas; jobs:read,jobs:write,models:use unless given.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="It expires after so many days; never unless given.")] = None,
    replaces: Annotated[str | None, typer.Option(help="A key (key-…) that ends; label and scopes are its own unless given.")] = None,
    overlap_hours: Annotated[float | None, typer.Option(min=0, help="For so long the replaced key still works; 24 unless given.")] = None,
    project: Annotated[str | None, typer.Option(help="For operators: the project whose first key it is.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print its token, which is shown only this once."""
    given: dict[str, Any] = {
        "label": label,
        "scopes": [name.strip() for name in scopes.split(",")] if scopes else None,
        "project": project,
        "expires_at": None if days is None else int(time.time() + days * 86_400),
        "replaces": replaces,
        "overlap_seconds": None if overlap_hours is None else int(overlap_hours * 3600),
    }
    with connected() as client:
        made = client.api_keys.create(**given)
    show_once(made, made.token, f"{made.id}: {made.label} ({', '.join(made.scopes)})", "token", "revoke", as_json)


@app.command("list")
def list_keys(limit: Limit = 20, as_json: Json = False) -> None:
    """List keys, newest first; also those that are over."""
    with connected() as client:
        show_rows(
            client.api_keys.list(limit=limit).data,
            [
                ("ID", lambda key: key.id),
                ("LABEL", lambda key: key.label),
                ("STATUS", lambda key: key.status),
                ("SCOPES", lambda key: " ".join(key.scopes)),
                ("EXPIRES", lambda key: when(key.expires_at)),
                ("LAST USED", lambda key: when(key.last_used_at)),
            ],
            as_json,
        )


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Its id, key-…")],
    cancel_jobs: Annotated[bool, typer.Option("--cancel-jobs", help="Cancel the jobs that it made, too.")] = False,
    as_json: Json = False,
) -> None:
    """End a key: from the next request on it is refused."""
    with connected() as client:
        revoked = client.api_keys.delete(key, cancel_jobs=cancel_jobs)
        if as_json:
            show_json({"id": key, "revoked": True, "cancelled_jobs": revoked.cancelled_jobs})
            return
        jobs = f", {revoked.cancelled_jobs} of its jobs were asked to stop" if cancel_jobs else ""
        console.print(f"{key} is revoked{jobs}", highlight=False)
