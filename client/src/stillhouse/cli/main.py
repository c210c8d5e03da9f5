"""The `stillhouse` command."""

from __future__ import annotations

from typing import Annotated

import typer

from stillhouse import __version__
from stillhouse.cli import (
    account,
    aliases,
    bundles,
    chat,
    connections,
    datasets,
    jobs,
    keys,
    metrics,
    projects,
    stored,
    stored_files,
    webhooks,
    workers,
)
from stillhouse.cli.output import console

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=(
        "Compile DSPy programs on a Stillhouse server.\n\n"
        "Exit codes: 0 ok, 1 failed, 2 usage, 3 cancelled, 4 timeout (the job goes on), 5 worse, 6 inconclusive, 7 paused.\n\n"
        "Server and key come from STILLHOUSE_BASE_URL and STILLHOUSE_API_KEY, else from credentials.json in STILLHOUSE_HOME or "
        ".stillhouse, else from `stillhouse login`."
    ),
)
app.add_typer(jobs.app, name="jobs")
app.add_typer(stored.programs, name="programs")
app.add_typer(metrics.app, name="metrics")
app.add_typer(bundles.app, name="bundles")
app.add_typer(datasets.app, name="datasets")
app.add_typer(stored_files.app, name="files")
app.add_typer(stored.artifacts, name="artifacts")
app.add_typer(aliases.app, name="aliases")
app.add_typer(stored.models, name="models")
app.add_typer(connections.app, name="connections")
app.add_typer(keys.app, name="keys")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(projects.app, name="projects")
app.add_typer(workers.workers, name="workers")
app.add_typer(workers.queues, name="queues")
app.add_typer(workers.maintenance, name="maintenance")


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(__version__, highlight=False)
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")]


@app.callback()
def main(version: Version = False) -> None:
    """Compile DSPy programs on a Stillhouse server."""


app.command()(account.login)
app.command()(account.logout)
app.command()(account.me)
app.command()(chat.chat)
app.command("audit-log")(projects.audit_log)
app.command()(projects.usage)


if __name__ == "__main__":
    app()
