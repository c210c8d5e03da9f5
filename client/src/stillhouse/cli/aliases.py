"""`stillhouse aliases …`."""

from __future__ import annotations

from typing import Annotated

import typer

from stillhouse.cli.output import Json, Limit, connected, console, show_json, show_rows, when

app = typer.Typer(no_args_is_help=True, help="Names that stay while artifacts change: program_name@alias.")

Name = Annotated[str, typer.Argument(help="program_name@alias")]


@app.command("list")
def list_aliases(
    program: Annotated[str | None, typer.Option(help="Only of this program.")] = None, limit: Limit = 20, as_json: Json = False
) -> None:
    """List aliases, newest first."""
    with connected() as client:
        found = client.aliases.list(program=program, limit=limit).data
        show_rows(
            found,
            [
                ("NAME", lambda alias: alias.name),
                ("ARTIFACT", lambda alias: alias.artifact),
                ("MOVED", lambda alias: when(alias.moved_at)),
                ("BY", lambda alias: alias.moved_by),
            ],
            as_json,
        )


@app.command()
def history(name: Name, limit: Limit = 20, as_json: Json = False) -> None:
    """Show where an alias has pointed, newest first."""
    with connected() as client:
        show_rows(
            client.aliases.history(name, limit=limit).data,
            [
                ("MOVED", lambda move: when(move.created_at)),
                ("FROM", lambda move: move.previous_artifact),
                ("TO", lambda move: move.artifact),
                ("BY", lambda move: move.moved_by),
            ],
            as_json,
        )


@app.command()
def delete(name: Name, as_json: Json = False) -> None:
    """Take an alias away; its artifact and its history stay."""
    with connected() as client:
        client.aliases.delete(name)
        show_json({"name": name, "deleted": True}) if as_json else console.print(f"{name} is gone", highlight=False)
