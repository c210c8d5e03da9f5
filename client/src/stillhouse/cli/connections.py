"""`stillhouse connections …`."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from stillhouse import Stillhouse
from stillhouse.cli.output import Exit, Json, connected, console, show_json, show_one, show_rows, stop
from stillhouse.types import Connection

app = typer.Typer(
    no_args_is_help=True, help="LM hosts that jobs name: the operator's, and the project's own. Making one needs the scope admin."
)

Which = Annotated[str, typer.Argument(help="Its name, or its id, conn-…")]


@app.command("list")
def list_connections(as_json: Json = False) -> None:
    """List what jobs may name."""
    with connected() as client:
        show_rows(
            client.connections.list().data,
            [
                ("NAME", lambda row: row.name),
                ("MODELS", lambda row: _said(row.models)),
                ("SUPPORTS", lambda row: _said(row.supports)),
                ("TRAINER", lambda row: row.trainer),
                ("DEFAULT", _default_of),
                ("OWNER", lambda row: row.owner),
                ("KEY", lambda row: f"…{row.key_hint}" if row.key_hint else "yes" if row.has_key else "none"),
                ("ID", lambda row: row.id),
            ],
            as_json,
        )


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What jobs call it.")],
    base_url: Annotated[str, typer.Argument(help="The OpenAI base, https://api.example.com/v1")],
    models: Annotated[str | None, typer.Option(help="With commas, the first being the default; * is any, as it is unless given.")] = None,
    supports: Annotated[str | None, typer.Option(help="With commas: structured_outputs, tools, reasoning.")] = None,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Calls at once from one process of the server.")] = 16,
    default_teacher: Annotated[bool, typer.Option("--default-teacher", help="For jobs that name no teacher's connection.")] = False,
    key_env: Annotated[str | None, typer.Option(help="The variable that holds its key; it is asked for unless given.")] = None,
    no_key: Annotated[bool, typer.Option("--no-key", help="It takes calls without a key.")] = False,
    as_json: Json = False,
) -> None:
    """Register an LM host of the project's own. Its key comes from a variable, a prompt or standard input, never from the command line."""
    more: dict[str, Any] = {"max_in_flight": max_in_flight, "default_teacher": default_teacher}
    if models:
        more["models"] = "*" if models.strip() == "*" else _words(models)
    if supports:
        more["supports"] = _words(supports)
    if not no_key:
        more["api_key"] = _key(name, key_env)
    with connected() as client:
        made = client.connections.create(name, base_url, **more)
        show_one(made, made.name, made.id, as_json)


@app.command("test")
def try_out(
    which: Which, model: Annotated[str | None, typer.Option(help="The model that is asked.")] = None, as_json: Json = False
) -> None:
    """Try a connection with one tiny call; exit code 1 when it failed."""
    with connected() as client:
        found = client.connections.test(_id_of(client, which), model=model)
        show_one(found, found.code, f"{found.message} ({found.seconds:.1f} s)", as_json)
        if not found.ok:
            raise typer.Exit(Exit.FAILED)


@app.command()
def delete(which: Which, as_json: Json = False) -> None:
    """Remove a connection of the project's own; its key is forgotten."""
    with connected() as client:
        connection_id = _id_of(client, which)
        client.connections.delete(connection_id)
        show_json({"id": connection_id, "deleted": True}) if as_json else console.print(f"{which} is gone", highlight=False)


def _id_of(client: Stillhouse, which: str) -> str:
    """Of two of one name the project's own, as jobs mean it."""
    if which.startswith("conn-"):
        return which
    named = [row for row in client.connections.list().data if row.name == which]
    if not named:
        stop(f"no connection {which}; `stillhouse connections list` shows what there is", Exit.FAILED)
    return next((row for row in named if row.owner == "project"), named[0]).id


def _said(names: list[str] | str) -> str:
    return names if isinstance(names, str) else " ".join(names)


def _default_of(row: Connection) -> str:
    roles = {"student": row.default_student, "teacher": row.default_teacher}
    return " ".join(role for role, chosen in roles.items() if chosen)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _key(name: str, variable: str | None) -> str:
    if variable is not None:
        found = os.environ.get(variable, "")
    else:
        found = str(typer.prompt(f"Key of {name}", hide_input=True)) if sys.stdin.isatty() else sys.stdin.readline()
    if not found.strip():
        where = f"the variable {variable}" if variable is not None else "standard input"
        stop(f"no key in {where}; --no-key is for a host that wants none", Exit.USAGE)
    return found.strip()
