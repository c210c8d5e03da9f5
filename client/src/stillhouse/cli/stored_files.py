"""`stillhouse files …`: what fine-tuning jobs of OpenAI's clients read their rows from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.cli.output import Json, Limit, connected, show_deleted, show_one, show_rows, when
from stillhouse.types import File

app = typer.Typer(no_args_is_help=True, help="Files for fine-tuning jobs of OpenAI's clients.")


def _show(file: File, as_json: bool) -> None:
    show_one(file, file.id, f"{file.filename}  {file.bytes} bytes", as_json)


@app.command("push")
def push_file(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON Lines, each with `messages`.")],
    as_json: Json = False,
) -> None:
    """Upload a file. The job that is given it names the lines that it cannot use."""
    with connected() as client:
        _show(client.files.create(file, progress=not as_json), as_json)


@app.command("list")
def list_files(limit: Limit = 20, as_json: Json = False) -> None:
    """List files, newest first."""
    with connected() as client:
        show_rows(
            client.files.list(limit=limit).data,
            [
                ("ID", lambda file: file.id),
                ("NAME", lambda file: file.filename),
                ("BYTES", lambda file: file.bytes),
                ("CREATED", lambda file: when(getattr(file, "created_at", None))),
            ],
            as_json,
        )


@app.command("get")
def get_file(
    file_id: str,
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="Write what it holds to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Show one file, or write it."""
    with connected() as client:
        file = client.files.retrieve(file_id)
        if output is not None:
            client.files.download(file_id, output)
        _show(file, as_json)


@app.command("delete")
def delete_file(file_id: str, as_json: Json = False) -> None:
    """Delete a file; jobs that were given it go on."""
    with connected() as client:
        client.files.delete(file_id)
        show_deleted(file_id, as_json)
