"""`stillhouse datasets …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse._request import Cascade
from stillhouse.cli import deleting
from stillhouse.cli.deleting import DryRun, WithArtifacts, Yes
from stillhouse.cli.files import FileProblem, read_rows
from stillhouse.cli.output import Json, connected, show_one, show_rows, when
from stillhouse.resources.datasets import CONTENT_TYPES, RowSource
from stillhouse.types import Dataset

app = typer.Typer(no_args_is_help=True, help="Datasets.")

Ref = Annotated[str, typer.Argument(help="ds-…, name@v3 or name@latest")]


@app.command("push")
def push(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .jsonl, .csv, .parquet or .json file.")],
    name: Annotated[str | None, typer.Option(help="Make the rows the next version of this name.")] = None,
    as_json: Json = False,
) -> None:
    """Upload rows."""
    with connected() as client:
        _show(client.datasets.create(_rows_of(file), name=name, progress=not as_json), as_json)


@app.command("list")
def list_datasets(limit: Annotated[int, typer.Option(min=1, max=100)] = 20, as_json: Json = False) -> None:
    """List datasets, newest first."""
    with connected() as client:
        show_rows(
            client.datasets.list(limit=limit).data,
            [
                ("ID", lambda dataset: dataset.id),
                ("NAME", _named),
                ("ROWS", lambda dataset: dataset.rows),
                ("CREATED", lambda dataset: when(getattr(dataset, "created_at", None))),
            ],
            as_json,
        )


@app.command("get")
def get(dataset: Ref, as_json: Json = False) -> None:
    """Show one dataset."""
    with connected() as client:
        _show(client.datasets.retrieve(dataset), as_json)


@app.command("delete")
def delete(dataset: Ref, with_artifacts: WithArtifacts = False, dry_run: DryRun = False, yes: Yes = False, as_json: Json = False) -> None:
    """Erase a dataset's rows, and the traces, training files and details of jobs that came from them."""
    cascade: Cascade | None = "artifacts" if with_artifacts else None
    with connected() as client:
        if dataset.endswith("@latest"):  # what is shown is what is deleted
            dataset = client.datasets.retrieve(dataset).id
        deleting.delete(
            lambda look: client.datasets.delete(dataset, dry_run=look, cascade=cascade), dry_run=dry_run, yes=yes, as_json=as_json
        )


def _rows_of(file: Path) -> RowSource:
    """A file that the server reads, or the rows of one that is read here. Raises FileProblem."""
    if file.suffix in CONTENT_TYPES:
        return file
    if file.suffix != ".json":
        raise FileProblem(f"{file}: expected a {', '.join(CONTENT_TYPES)} or .json file")
    return read_rows(file)


def _show(dataset: Dataset, as_json: bool) -> None:
    columns = ", ".join(str(column.get("name")) for column in dataset.columns)
    show_one(dataset, dataset.id, f"{_named(dataset)}  {dataset.rows} rows; columns {columns}", as_json)


def _named(dataset: Dataset) -> str:
    version = getattr(dataset, "version", None)
    return "" if dataset.name is None else f"{dataset.name}@v{version}" if version else dataset.name
