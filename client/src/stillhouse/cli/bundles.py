"""`stillhouse bundles …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.bundling.errors import NotSendable
from stillhouse.bundling.paths import from_paths
from stillhouse.cli.output import Exit, Json, Limit, connected, console, show_deleted, show_one, show_rows, stop, when
from stillhouse.types import Bundle

app = typer.Typer(no_args_is_help=True, help="Python code that programs and metrics are made of on the server.")


def _show(bundle: Bundle, as_json: bool) -> None:
    show_one(bundle, bundle.id, _says(bundle), as_json)


def _says(bundle: Bundle) -> str:
    parts = {"modules": bundle.modules, "by value": bundle.pickles, "needs": bundle.packages}
    told = [f"{what} {', '.join(names)}" for what, names in parts.items() if names]
    return "; ".join([f"Python {bundle.python}", *told, f"{bundle.size / 1000:.1f} kB"])


@app.command("create")
def create_bundle(
    paths: Annotated[list[Path], typer.Argument(exists=True, help="Files; folders with all that is in them.")], as_json: Json = False
) -> None:
    """Send code. A folder with an __init__.py is a package and keeps its name; of any other folder what is inside is sent."""
    try:
        document = from_paths(paths)
    except NotSendable as error:
        stop(str(error), Exit.USAGE)
    with connected() as client:
        _show(client.bundles.create(document), as_json)
    if not as_json:
        console.print(f"sent {', '.join(document['files'])}", highlight=False, markup=False)


@app.command("list")
def list_bundles(limit: Limit = 20, as_json: Json = False) -> None:
    """List bundles, newest first."""
    with connected() as client:
        show_rows(
            client.bundles.list(limit=limit).data,
            [
                ("ID", lambda bundle: bundle.id),
                ("PYTHON", lambda bundle: bundle.python),
                ("MODULES", lambda bundle: " ".join(bundle.modules)),
                ("BY VALUE", lambda bundle: " ".join(bundle.pickles)),
                ("NEEDS", lambda bundle: " ".join(bundle.packages)),
                ("CREATED", lambda bundle: when(getattr(bundle, "created_at", None))),
            ],
            as_json,
        )


@app.command("get")
def get_bundle(bundle_id: str, as_json: Json = False) -> None:
    """Show one bundle."""
    with connected() as client:
        _show(client.bundles.retrieve(bundle_id), as_json)


@app.command("delete")
def delete_bundle(bundle_id: str, as_json: Json = False) -> None:
    """Delete a bundle; what was made of it cannot run any more. Refused while an unfinished job needs it."""
    with connected() as client:
        client.bundles.delete(bundle_id)
        show_deleted(bundle_id, as_json)
