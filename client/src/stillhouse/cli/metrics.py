"""`stillhouse metrics …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stillhouse.cli.files import read_document, read_rows
from stillhouse.cli.output import Json, Limit, connected, show_deleted, show_json, show_one, show_rows, show_table, when
from stillhouse.types import Metric

app = typer.Typer(no_args_is_help=True, help="Metrics that jobs take by id.")
Rows = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]


def _show(metric: Metric, as_json: bool) -> None:
    show_one(metric, metric.id, f"{metric.name or ''}  {_says(metric.spec)}", as_json)


def _says(spec: dict[str, Any]) -> str:
    return str(spec.get("reference") or spec.get("type"))


@app.command("create")
def create_metric(
    spec: Annotated[str, typer.Argument(help="A file (JSON or YAML), or the name of a built-in metric.")],
    name: Annotated[str | None, typer.Option(help="A name to find it by.")] = None,
    as_json: Json = False,
) -> None:
    """Store a metric."""
    with connected() as client:
        path = Path(spec)
        _show(client.metrics.create(read_document(path) if path.is_file() else spec, name=name), as_json)


@app.command("list")
def list_metrics(limit: Limit = 20, as_json: Json = False) -> None:
    """List metrics, newest first."""
    with connected() as client:
        show_rows(
            client.metrics.list(limit=limit).data,
            [
                ("ID", lambda metric: metric.id),
                ("NAME", lambda metric: metric.name),
                ("METRIC", lambda metric: _says(metric.spec)),
                ("CREATED", lambda metric: when(getattr(metric, "created_at", None))),
            ],
            as_json,
        )


@app.command("get")
def get_metric(metric_id: str, as_json: Json = False) -> None:
    """Show one metric."""
    with connected() as client:
        _show(client.metrics.retrieve(metric_id), as_json)


@app.command("try")
def try_metric(metric_id: str, examples: Rows, predictions: Rows, as_json: Json = False) -> None:
    """Show what a metric says of rows and of the outputs for each of them, from two files of rows; no LM is called."""
    with connected() as client:
        tried = client.metrics.try_(metric_id, read_rows(examples), read_rows(predictions))
        if as_json:
            show_json(tried)
            return
        show_table(
            enumerate(tried.data, start=1),
            [
                ("ROW", lambda pair: pair[0]),
                ("STATUS", lambda pair: pair[1].status),
                ("VALUE", lambda pair: pair[1].value),
                ("SAID", lambda pair: pair[1].error or pair[1].feedback),
            ],
        )


@app.command("delete")
def delete_metric(metric_id: str, as_json: Json = False) -> None:
    """Delete a metric; jobs that took it keep its spec."""
    with connected() as client:
        client.metrics.delete(metric_id)
        show_deleted(metric_id, as_json)
