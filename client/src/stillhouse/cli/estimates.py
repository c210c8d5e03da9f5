"""An estimate for people: a table of roles, one line in all, and what nobody knows."""

from __future__ import annotations

from rich.markup import escape

from stillhouse.cli.output import console, show_table
from stillhouse.types import Estimate

UNKNOWN = "?"


def show_estimate(found: Estimate) -> None:
    """Numbers that are not known are shown as `?`."""
    show_table(
        found.roles,
        [
            ("ROLE", lambda role: role.role),
            ("EXAMPLES", lambda role: role.examples),
            ("STORED", lambda role: role.stored),
            ("CALLS", lambda role: _number(role.calls)),
            ("TOKENS", lambda role: _tokens(role.prompt_tokens, role.completion_tokens)),
            ("USD", lambda role: _money(role.usd)),
        ],
    )
    trained, reused = found.training.get("fine_tuning_jobs", 0), found.training.get("reused", 0)
    console.print(f"{trained} to train, {reused} trained before", highlight=False)
    console.print(f"[bold]{_number(found.calls)} calls, {_money(found.total_usd)} USD, {_time(found.seconds)}[/bold]", highlight=False)
    for part in found.unknown:
        console.print(f"  not known: {escape(part)}", style="dim", highlight=False)
    for warning in found.warnings:
        console.print(f"  [yellow]warning[/yellow] {escape(warning.message)}", highlight=False)


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _tokens(prompt: int | None, completion: int | None) -> str:
    return UNKNOWN if prompt is None or completion is None else f"{prompt + completion:,}"


def _money(usd: float | None) -> str:
    return UNKNOWN if usd is None else f"{usd:.2f}"


def _time(seconds: float | None) -> str:
    return f"{UNKNOWN} min" if seconds is None else f"{seconds / 60:.0f} min"
