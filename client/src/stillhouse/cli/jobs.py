"""`stillhouse jobs …`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markdown import Markdown
from rich.markup import escape

from stillhouse import Stillhouse
from stillhouse.cli import records
from stillhouse.cli.files import parse_pairs, read_job
from stillhouse.cli.limits import budget, parse_seconds
from stillhouse.cli.logs import LogPrinter
from stillhouse.cli.logs import follow as follow_logs
from stillhouse.cli.output import Exit, connected, console, errors, show_json, show_json_line, show_rows, show_table, when
from stillhouse.cli.report import markdown
from stillhouse.types import CompileJob, Event, JobUpdateParams

app = typer.Typer(no_args_is_help=True, help="Compile jobs: create, follow, stop.")
app.command("training-files")(records.training_files)
app.command("traces")(records.traces)
app.command("rejections")(records.rejections)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId = Annotated[str, typer.Argument(help="cjob-…")]
FineTuningJob = Annotated[str | None, typer.Option("--fine-tuning-job", help="Only this one (ftjob-…).")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the job is done, or paused.")]
Timeout = Annotated[str | None, typer.Option(help="Stop waiting after this long (90s, 15m, 3h); the job goes on.")]


def exit_code(job: CompileJob) -> Exit:
    return {"succeeded": Exit.OK, "cancelled": Exit.CANCELLED, "paused": Exit.PAUSED}.get(job.status, Exit.FAILED)


@app.command()
def create(
    file: Annotated[Path, typer.Option("--file", "-f", help="Job file (YAML or JSON); `{file: …}` parts are read in.", exists=True)],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job is done, or paused.")] = False,
    timeout: Annotated[str | None, typer.Option(help="Stop waiting after this long (90s, 15m, 3h); the job goes on.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key again returns the same job.")] = None,
    metadata: Annotated[list[str] | None, typer.Option("--metadata", help="name=value, may be repeated.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, make no job; CSV files are uploaded for it.")] = False,
    as_json: Json = False,
) -> None:
    """Create a compile job from a file."""
    seconds = parse_seconds(timeout) if timeout else None
    with connected() as client:
        body = _uploaded(client, read_job(file))
        body["metadata"] = {**body.get("metadata", {}), **parse_pairs(metadata or [])}
        if dry_run:
            checked = client.compile_jobs.dry_run(**body)
            show_json(checked) if as_json else console.print("The server would take this job.", highlight=False)
            return
        job = client.compile_jobs.create(idempotency_key=idempotency_key, **body)
        if wait:
            if not as_json:
                errors.print(f"{job.id} {job.status}", highlight=False)
            job = client.compile_jobs.wait(job.id, timeout=seconds, progress=not as_json)
        _show(job, as_json)
    if wait:
        raise typer.Exit(exit_code(job))


@app.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only jobs with this status.")] = None,
    program: Annotated[str | None, typer.Option(help="Only jobs with this program name.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=100)] = 20,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    filters: dict[str, Any] = {key: value for key, value in {"status": status, "program": program}.items() if value}
    with connected() as client:
        jobs = client.compile_jobs.list(limit=limit, **filters).data
        show_rows(
            jobs,
            [
                ("ID", lambda job: job.id),
                ("STATUS", lambda job: job.status),
                ("STEP", lambda job: job.step),
                ("%", lambda job: job.progress.percent),
                ("PROGRAM", lambda job: job.program_name),
                ("CREATED", lambda job: when(job.created_at)),
                ("WAITS", _queue),
            ],
            as_json,
        )


@app.command()
def get(
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job is done, or paused.")] = False,
    timeout: Annotated[str | None, typer.Option(help="Stop waiting after this long.")] = None,
    as_json: Json = False,
) -> None:
    """Show one job; with --wait the exit code says how it ended."""
    seconds = parse_seconds(timeout) if timeout else None
    with connected() as client:
        job = _waited(client, job_id, seconds, as_json) if wait else client.compile_jobs.retrieve(job_id)
        _show(job, as_json)
    if wait:
        raise typer.Exit(exit_code(job))


@app.command()
def start(job_id: JobId, as_json: Json = False) -> None:
    """Start a job that was created with auto_start: false."""
    with connected() as client:
        _show(client.compile_jobs.start(job_id), as_json)


@app.command()
def cancel(job_id: JobId, as_json: Json = False) -> None:
    """Ask a job to stop."""
    with connected() as client:
        _show(client.compile_jobs.cancel(job_id), as_json)


@app.command()
def pause(job_id: JobId, as_json: Json = False) -> None:
    """Ask a job to stand still with all it has."""
    with connected() as client:
        _show(client.compile_jobs.pause(job_id), as_json)


@app.command()
def resume(job_id: JobId, wait: Wait = False, timeout: Timeout = None, as_json: Json = False) -> None:
    """Let a paused job go on where it stood."""
    with connected() as client:
        _ended(client, client.compile_jobs.resume(job_id), wait, timeout, as_json)


@app.command()
def update(
    job_id: JobId,
    max_calls: Annotated[str | None, typer.Option(help="At most so many LM calls; none takes the limit away.")] = None,
    max_tokens: Annotated[str | None, typer.Option(help="At most so many tokens of prompts and answers, or none.")] = None,
    max_cost_usd: Annotated[str | None, typer.Option(help="At most so many US dollars for LM calls, or none.")] = None,
    deadline: Annotated[str | None, typer.Option(help="2027-01-31T18:00, how long from now (3h), or none.")] = None,
    name: Annotated[str | None, typer.Option(help="The job's name.")] = None,
    priority: Annotated[int | None, typer.Option(help="Of a project's jobs, the highest comes first.")] = None,
    metadata: Annotated[list[str] | None, typer.Option("--metadata", help="name=value, may be repeated; replaces all.")] = None,
    if_match: Annotated[str | None, typer.Option(help="The job's etag: refuse when it was changed since.")] = None,
    as_json: Json = False,
) -> None:
    """Change a job's budget, name, priority or metadata; a job that its budget paused goes on with `resume`."""
    changes: JobUpdateParams = {}
    if limits := budget(max_calls, max_tokens, max_cost_usd, deadline):
        changes["budget"] = limits
    if name is not None:
        changes["name"] = name
    if priority is not None:
        changes["priority"] = priority
    with connected() as client:
        if metadata:
            changes["metadata"] = parse_pairs(metadata)
        _show(client.compile_jobs.update(job_id, if_match=if_match, **changes), as_json)


@app.command()
def report(
    job_id: JobId,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, as for a CI summary.")] = False,
    examples: Annotated[int, typer.Option(min=0, max=100, help="Regressions and fixes to list, at most so many each.")] = 10,
    as_json: Json = False,
) -> None:
    """Show how the compiled program did: scores, verdict, what got worse and what got better."""
    with connected() as client:
        job, evaluation = client.compile_jobs.retrieve(job_id), client.compile_jobs.evaluation(job_id)
        listed = {}
        for change in ("regression", "fix"):
            listed[change] = client.compile_jobs.pairs(job_id, change=change, limit=examples).data if examples and evaluation.data else []
        if as_json:
            show_json({"job": job, "evaluation": evaluation, "regressions": listed["regression"], "fixes": listed["fix"]})
            return
        text = markdown(job, evaluation, listed["regression"], listed["fix"])
        if as_markdown:
            sys.stdout.write(text)
        else:
            console.print(Markdown(text))


@app.command()
def retry(
    job_id: JobId,
    fine_tuning_job: FineTuningJob = None,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Let a failed job go on where it failed; what succeeded stays."""
    with connected() as client:
        _ended(client, client.compile_jobs.retry(job_id, fine_tuning_job=fine_tuning_job), wait, timeout, as_json)


@app.command()
def refilter(
    job_id: JobId,
    min_score: Annotated[float | None, typer.Option(help="The bar for rows.")] = None,
    top_k: Annotated[int | None, typer.Option(help="At most so many traces of one example.")] = None,
    max_rows: Annotated[int | None, typer.Option(help="At most so many rows a fine-tune job.")] = None,
    prompt_adapter: Annotated[str | None, typer.Option(help="The student's: chat, json, …")] = None,
    demos: Annotated[str | None, typer.Option(help="keep, drop or auto.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="More changes (YAML, JSON): lms, train_options, …", exists=True)] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Make another job from a job's traces: no teacher is called, and nothing is trained that was trained before."""
    body: dict[str, Any] = dict(read_job(file)) if file else {}
    bars = {key: value for key, value in {"min_score": min_score, "top_k": top_k, "max_rows": max_rows}.items() if value is not None}
    if bars:
        body["filter"] = {**body.get("filter", {}), **bars}
    body.update({key: value for key, value in {"prompt_adapter": prompt_adapter, "demos": demos}.items() if value is not None})
    with connected() as client:
        _ended(client, client.compile_jobs.refilter(job_id, **body), wait, timeout, as_json)


@app.command()
def logs(
    job_id: JobId,
    fine_tuning_job: FineTuningJob = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is done.")] = False,
    as_json: Json = False,
) -> None:
    """Show what the trainers wrote, by LM and predictor."""
    with connected() as client:
        if follow:
            follow_logs(client, job_id, fine_tuning_job, as_json)
            return
        found = client.compile_jobs.logs(job_id, fine_tuning_job=fine_tuning_job).data
        show_json(found) if as_json else LogPrinter().show(found)


@app.command()
def events(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is done.")] = False,
    after: Annotated[int | None, typer.Option(help="Only events after this number.")] = None,
    as_json: Json = False,
) -> None:
    """Show what happened to a job."""
    with connected() as client:
        source = client.compile_jobs.events.stream(job_id, after=after) if follow else client.compile_jobs.events.list(job_id, after=after)
        for event in source:
            show_json_line(event) if as_json else _show_event(event)


def _ended(client: Stillhouse, job: CompileJob, wait: bool, timeout: str | None, as_json: bool) -> None:
    """Show a job, at its end if that is waited for: then the exit code says which."""
    seconds = parse_seconds(timeout) if timeout else None
    if wait and not as_json:
        errors.print(f"{job.id} {job.status}", highlight=False)
    job = _waited(client, job.id, seconds, as_json) if wait else job
    _show(job, as_json)
    if wait:
        raise typer.Exit(exit_code(job))


def _uploaded(client: Stillhouse, body: dict[str, Any]) -> dict[str, Any]:
    """The body with each CSV replaced by the id of its dataset."""
    return {key: client.datasets.create(value).id if isinstance(value, Path) else value for key, value in body.items()}


def _waited(client: Stillhouse, job_id: str, seconds: float | None, as_json: bool) -> CompileJob:
    return client.compile_jobs.wait(job_id, timeout=seconds, progress=not as_json)


def _show_event(event: Event) -> None:
    colour = {"error": "red", "warning": "yellow"}.get(event.level, "cyan")
    console.print(f"{when(event.created_at)} [{colour}]{event.type:<18}[/{colour}] {escape(event.message)}", highlight=False)


def _show(job: CompileJob, as_json: bool) -> None:
    if as_json:
        show_json(job)
        return
    console.print(f"[bold]{job.id}[/bold]  {job.status}  {job.program_name or ''}  {job.progress.percent}%", highlight=False)
    if job.queue:
        console.print(f"  {_queue(job)}", style="dim", highlight=False)
    if job.pause:
        console.print(f"  [yellow]{job.pause.code}[/yellow] {escape(job.pause.message)}", highlight=False)
    _show_steps(job)
    _show_scores(job)
    for warning in job.warnings:
        console.print(f"  [yellow]warning[/yellow] {escape(warning.message)}", highlight=False)
    if job.error:
        console.print(f"  [red]{job.error.code}[/red] {escape(job.error.message)}", highlight=False)
    if job.artifact:
        console.print(f"  artifact {job.artifact.id}", highlight=False)


def _queue(job: CompileJob) -> str:
    """`#2: 1 job ahead in the project`, or the reason alone."""
    if job.queue is None:
        return ""
    place = f"#{job.queue.position}: " if job.queue.position is not None else ""
    return place + escape(job.queue.reason)


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
            ("95 %", lambda pair: f"{_number(pair[1].get('low'))} – {_number(pair[1].get('high'))}"),
            ("PARSE FAILURES", lambda pair: pair[1].get("parse_failures")),
        ],
    )
    if delta := (job.evaluation or {}).get("delta"):
        console.print(f"  compared with {delta['against']}: [bold]{delta['verdict']}[/bold]", highlight=False)


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else "–"
