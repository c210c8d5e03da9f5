"""How the command line shows jobs, and waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.markup import escape

from stillhouse import Stillhouse
from stillhouse._advice import cause, in_commands
from stillhouse._low_answers import low_held_out_answer, low_training_answer
from stillhouse._progress import duration, name_of, watcher
from stillhouse._references import named, not_beaten
from stillhouse.cli.output import Exit, console, errors, show_json, show_table, when
from stillhouse.types import CompileJob, Event, Holder

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
    with _left_by_ctrl_c(job_id), watcher(not as_json, on_update) as update:
        return client.compile_jobs.wait(job_id, timeout=seconds, on_update=update)


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
    console.print(f"[bold]{job.id}[/bold]  {status_of(job)}  {job.program_name or ''}  {job.progress.percent}%", highlight=False)
    if job.queue:
        for line in (queue_of(job), *holders_of(job)):
            console.print(f"  {escape(line)}", style="dim", highlight=False, soft_wrap=True)
    if job.pause:
        console.print(f"  [yellow]{job.pause.code}[/yellow] {escape(job.pause.message)}", highlight=False, soft_wrap=True)
    _show_steps(job)
    _show_scores(job)
    for warning in job.warnings:
        console.print(f"  [yellow]warning[/yellow] {escape(warning.message)}", highlight=False, soft_wrap=True)
    if job.error:
        console.print(
            f"  [red]{job.error.code}[/red] {escape(' '.join(filter(None, (cause(job.error), in_commands(job)))))}",
            highlight=False,
            soft_wrap=True,
        )
    if job.artifact:
        console.print(f"  artifact {job.artifact.id}", highlight=False)


def show_low_answer(client: Stillhouse, job: CompileJob) -> None:
    """One answer beside its labels, where a job failed or scored low for its answers. Without its trainset the labels are not known."""
    shown = low_held_out_answer(client, job) if job.trainset is None else _low_answer(client, job, job.trainset)
    if shown:
        console.print(f"  {escape(shown)}", highlight=False, soft_wrap=True)


def _low_answer(client: Stillhouse, job: CompileJob, trainset: str) -> str:
    def labels_of(row: int) -> Mapping[str, Any]:
        return client.datasets.rows(trainset, start=row, limit=1).data[0].data

    return low_training_answer(client, job, labels_of) or low_held_out_answer(client, job)


def status_of(job: CompileJob) -> str:
    """`waiting (3rd for the trainer, about 12 min)` for a job that has begun and nothing of which runs, else its status."""
    if job.status != "running" or not job.waiting:
        return job.status
    if job.queue is None or job.queue.resource is None:
        return "waiting"
    place = "" if job.queue.position is None else f"{_ordinal(job.queue.position)} "
    known = job.queue.estimated_seconds
    about = "" if known is None else f", about {duration(known)}"
    return f"waiting ({place}for the {job.queue.resource}{about})"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def queue_of(job: CompileJob) -> str:
    """`#2: 1 job ahead in the project`, or the reason alone."""
    if job.queue is None:
        return ""
    place = f"#{job.queue.position}: " if job.queue.position is not None and job.queue.resource is None else ""
    return place + job.queue.reason


def holders_of(job: CompileJob) -> list[str]:
    """One line for each job that has what this one waits for."""
    return [_holder_line(holder) for holder in job.queue.held_by] if job.queue else []


def _holder_line(holder: Holder) -> str:
    return f"{name_of(holder)} has it since {when(holder.since)}"


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
    evaluation = job.evaluation or {}
    scores = [(role, value) for role, value in evaluation.items() if isinstance(value, dict) and "score" in value]
    if not scores:
        return
    show_table(
        [*scores, *named(evaluation.get("references"))],
        [
            ("  ROLE", lambda pair: f"  {pair[0]}"),
            ("SCORE", lambda pair: _number(pair[1].get("score"))),
            ("95 % INTERVAL", lambda pair: f"{_number(pair[1].get('low'))} to {_number(pair[1].get('high'))}"),
            ("N", lambda pair: pair[1].get("n")),
            ("UNDECIDED", lambda pair: pair[1].get("undecided", "–")),
            ("PARSE FAILURES", lambda pair: pair[1].get("parse_failures", "–")),
        ],
    )
    if delta := evaluation.get("delta"):
        span = f"{delta['value']:+.3f} ({delta['low']:+.3f} to {delta['high']:+.3f}), " if delta.get("value") is not None else ""
        words = f"[bold]{delta['verdict']}[/bold]{not_beaten(delta, evaluation.get('references'))}"
        console.print(f"  compared with {delta['against']}: {span}{words}", highlight=False, soft_wrap=True)


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else "–"
