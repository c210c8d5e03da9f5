"""Deletions that cannot be undone: what they remove is shown, and confirmed, before they are sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console

from stillhouse.cli.output import Exit, console, errors, show_json, show_one
from stillhouse.types import Deletion

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be removed and what refuses it; remove nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
WithArtifacts = Annotated[bool, typer.Option("--with-artifacts", help="Delete artifacts and models that came from it, too.")]


def delete(send: Callable[[bool], Deletion], *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete, or only look: `send` sends the request, with or without `dry_run`."""
    if dry_run:
        found = send(True)
        show_json(found) if as_json else _show(found, console)
        return
    if not yes:
        found = send(True)
        _show(found, errors)
        if found.blocked_by:
            raise typer.Exit(Exit.FAILED)
        typer.confirm("Delete it? This cannot be undone", abort=True, err=True)
    done = send(False)
    show_one(done, done.id, "deleted", as_json)


def _show(found: Deletion, where: Console) -> None:
    for noun, number in (found.removes or {}).items():
        if number:
            where.print(f"{number:>15,}  {noun.replace('_', ' ')}", highlight=False)
    for title, lines in (("refused:", found.blocked_by), ("note:", found.notes)):
        for line in lines:
            where.print(f"{title} {line}", highlight=False, markup=False, soft_wrap=True)
