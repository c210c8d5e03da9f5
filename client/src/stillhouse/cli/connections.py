"""`stillhouse connections …`."""

from __future__ import annotations

import typer

from stillhouse.cli.output import Json, connected, show_rows
from stillhouse.types import Connection

app = typer.Typer(no_args_is_help=True, help="LM hosts and providers that jobs may name.")


@app.command("list")
def list_connections(as_json: Json = False) -> None:
    """List connections; the server's operator makes them."""
    with connected() as client:
        show_rows(
            client.connections.list().data,
            [
                ("NAME", lambda connection: connection.name),
                ("MODELS", lambda connection: _words(connection.models)),
                ("SUPPORTS", lambda connection: _words(connection.supports)),
                ("TRAINER", lambda connection: connection.trainer),
                ("DEFAULT", _default_of),
            ],
            as_json,
        )


def _words(names: list[str] | str) -> str:
    return names if isinstance(names, str) else " ".join(names)


def _default_of(connection: Connection) -> str:
    roles = {"student": connection.default_student, "teacher": connection.default_teacher}
    return " ".join(role for role, chosen in roles.items() if chosen)
