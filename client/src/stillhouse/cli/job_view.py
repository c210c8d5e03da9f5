"""How the command line shows jobs, and waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.markup import escape

from stillhouse import Stillhouse
from stillhouse.cli.output import Exit, console, errors, show_json, show_table, when
from stillhouse.types import CompileJob, Event

_CTRL_C = 130
"""As shells have it for a command that Ctrl-C ended."""


def exit_code(job: CompileJob) -> Exit:
    return {"succeeded": Exit.OK, "cancelled": Exit.CANCELLED, "paused": Exit.PAUSED}.get(job.status, Exit.FAILED)


def check_waiting(wait: bool, timeout: float | None) -> None:
    """Before anything is sent: a time to wait for, where nothing waits, is a mistake."""
    if timeout is not None and not wait:
        raise typer.BadParameter("goes with --wait", param_hint="--timeout")


def ended(client: Stillhouse, job: CompileJob, wait: bool, timeout: float | None, as_json: bool) -> None:
    """Show a job, at its end if that is waited for: then the exit code says which."""
    if wait and not as_json:
        errors.print(f"{job.id} {job.status}", highlight=False)
    job = waited(client, job.id, timeout, as_json) if wait else job
    show_job(job, as_json)
    if wait:
        raise typer.Exit(exit_code(job))


def waited(
    client: Stillhouse, job_id: str, seconds: float | None, as_json: bool, on_update: Callable[[CompileJob], None] | None = None
) -> CompileJob:
    with _left_by_ctrl_c(job_id):
        return client.compile_jobs.wait(job_id, timeout=seconds, progress=not as_json, on_update=on_update)


@contextmanager
def _left_by_ctrl_c(job_id: str) -> Iterator[None]:
    """Ctrl-C ends the waiting alone, and says so: `Aborted` would be taken for the job's end."""
    try:
        yield
    except KeyboardInterrupt:
        said = f"{job_id} goes on. `stillhouse jobs watch {job_id}` follows it again, `stillhouse jobs cancel {job_id}` stops it"
        errors.print(f"\n{said}", highlight=False, soft_wrap=True)
        raise typer.Exit(_CTRL_C) from None


def show_event(event: Event) -> None:
    colour = {"error": "red", "warning": "yellow"}.get(event.level, "cyan")
    said = f"{when(event.created_at)} [{colour}]{event.type:<18}[/{colour}] {escape(event.message)}"
    console.print(said, highlight=False, soft_wrap=True)


def show_job(job: CompileJob, as_json: bool) -> None:
    if as_json:
        show_json(job)
        return
    console.print(f"[bold]{job.id}[/bold]  {job.status}  {job.program_name or ''}  {job.progress.percent}%", highlight=False)
    if job.queue:
        console.print(f"  {escape(queue_of(job))}", style="dim", highlight=False)
    if job.pause:
        console.print(f"  [yellow]{job.pause.code}[/yellow] {escape(job.pause.message)}", highlight=False, soft_wrap=True)
    _show_steps(job)
    _show_scores(job)
    for warning in job.warnings:
        console.print(f"  [yellow]warning[/yellow] {escape(warning.message)}", highlight=False, soft_wrap=True)
    if job.error:
        console.print(f"  [red]{job.error.code}[/red] {escape(job.error.message)}", highlight=False, soft_wrap=True)
    if job.artifact:
        console.print(f"  artifact {job.artifact.id}", highlight=False)


def queue_of(job: CompileJob) -> str:
    """`#2: 1 job ahead in the project`, or the reason alone."""
    if job.queue is None:
        return ""
    place = f"#{job.queue.position}: " if job.queue.position is not None else ""
    return place + job.queue.reason


def _show_steps(job: CompileJob) -> None:
    show_table(
        job.steps,
        [
            ("  STEP", lambda step: f"  {step.name}"),
            ("STATUS", lambda step: step.status),
            ("DONE", lambda step: f"{step.done}/{step.total}"),
            ("", lambda step: ", ".join(f"{key} {value}" for key, value in step.counts.items() if _worth_showing(key, value))),
        ],
    )


def _worth_showing(name: str, value: Any) -> bool:
    return isinstance(value, int) and value != 0 and not name.endswith("_tokens")


def _show_scores(job: CompileJob) -> None:
    scores = [(role, value) for role, value in (job.evaluation or {}).items() if isinstance(value, dict) and "score" in value]
    if not scores:
        return
    show_table(
        scores,
        [
            ("  ROLE", lambda pair: f"  {pair[0]}"),
            ("SCORE", lambda pair: _number(pair[1].get("score"))),
            ("95 % INTERVAL", lambda pair: f"{_number(pair[1].get('low'))} to {_number(pair[1].get('high'))}"),
            ("PARSE FAILURES", lambda pair: pair[1].get("parse_failures")),
        ],
    )
    if delta := (job.evaluation or {}).get("delta"):
        span = f"{delta['value']:+.3f} ({delta['low']:+.3f} to {delta['high']:+.3f}), " if delta.get("value") is not None else ""
        console.print(f"  compared with {delta['against']}: {span}[bold]{delta['verdict']}[/bold]", highlight=False, soft_wrap=True)


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else "–"
