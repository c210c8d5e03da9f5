"""`stillhouse jobs …`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markdown import Markdown

from stillhouse._request import Cascade
from stillhouse.cli import deleting, records
from stillhouse.cli.deleting import DryRun, WithArtifacts, Yes
from stillhouse.cli.estimates import show_estimate
from stillhouse.cli.files import parse_pairs
from stillhouse.cli.imports import import_traces
from stillhouse.cli.job_files import JobFile, uploaded
from stillhouse.cli.job_view import check_waiting, ended, exit_code, queue_of, show_event, show_job, show_low_answer, status_of, waited
from stillhouse.cli.limits import budget, parse_seconds
from stillhouse.cli.logs import LogPrinter
from stillhouse.cli.logs import follow as follow_logs
from stillhouse.cli.output import Exit, Json, ProjectOption, connected, console, errors, show_json, show_json_line, show_rows, stop, when
from stillhouse.cli.report import markdown
from stillhouse.types import JobUpdateParams

app = typer.Typer(no_args_is_help=True, help="Compile jobs: create, follow, stop.")

CreatedBy = Annotated[str | None, typer.Option(help="Only jobs that this key made: its id or label, or me.")]
JobId = Annotated[str, typer.Argument(help="cjob-…")]
FineTuningJob = Annotated[str | None, typer.Option("--fine-tuning-job", help="Only this one (ftjob-…).")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the job is done, or paused.")]
Timeout = Annotated[
    float | None, typer.Option(parser=parse_seconds, metavar="TIME", help="Stop waiting after this long (90s, 15m, 3h); the job goes on.")
]


def _filters(**given: str | None) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value}


@app.command()
def create(
    file: Annotated[Path, typer.Option("--file", "-f", help="Job file (YAML or JSON); `{file: …}` parts are read in.", exists=True)],
    wait: Wait = False,
    timeout: Timeout = None,
    if_changed: Annotated[bool, typer.Option("--if-changed", help="Make no job where one with the same rows and options stands.")] = False,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key again returns the same job.")] = None,
    metadata: Annotated[list[str] | None, typer.Option("--metadata", help="name=value, may be repeated.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, make no job; CSV files are uploaded for it.")] = False,
    as_json: Json = False,
) -> None:
    """Create a compile job from a file."""
    check_waiting(wait, timeout)
    with connected() as client:
        given = JobFile(file)
        labels = {**given.mapping("metadata"), **parse_pairs(metadata or [])}
        with given.told_by_line():
            body = {**uploaded(client, given.body, idempotency_key), "metadata": labels}
            if dry_run:
                checked = client.compile_jobs.dry_run(**body)
                show_json(checked) if as_json else console.print("The server would take this job.", highlight=False)
                return
            job = client.compile_jobs.create(idempotency_key=idempotency_key, if_changed=if_changed, **body)
        if idempotency_key and not wait:
            job = client.compile_jobs.retrieve(job.id)  # a key that was sent before is answered with the job as it was then
        if job.is_final and job.artifact:
            errors.print(f"nothing to do: {job.artifact.id} stands, of {job.id}", highlight=False, soft_wrap=True)
        ended(client, job, wait, timeout, as_json)


@app.command()
def estimate(
    file: Annotated[Path, typer.Option("--file", "-f", help="Job file, as of `create`; CSV files are uploaded for it.", exists=True)],
    as_json: Json = False,
) -> None:
    """Show what a job would ask and cost; no LM is called."""
    with connected() as client:
        given = JobFile(file)
        with given.told_by_line():
            found = client.compile_jobs.estimate(**uploaded(client, given.body))
        show_json(found) if as_json else show_estimate(found)


@app.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only jobs with this status.")] = None,
    program: Annotated[str | None, typer.Option(help="Only jobs with this program name.")] = None,
    created_by: CreatedBy = None,
    project: ProjectOption = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=100)] = 20,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    filters = _filters(status=status, program=program, created_by=created_by, project=project)
    with connected() as client:
        jobs = client.compile_jobs.list(limit=limit, **filters).data
        show_rows(
            jobs,
            [
                ("ID", lambda job: job.id),
                ("STATUS", status_of),
                ("STEP", lambda job: job.step),
                ("%", lambda job: job.progress.percent),
                ("PROGRAM", lambda job: job.program_name),
                *([("PROJECT", lambda job: job.project)] if project else []),
                ("OWNER", lambda job: job.owner),
                ("CREATED", lambda job: when(job.created_at)),
                ("WAITS", queue_of),
            ],
            as_json,
        )


@app.command()
def get(
    job_id: JobId,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Show one job; with --wait the exit code says how it ended."""
    check_waiting(wait, timeout)
    with connected() as client:
        job = waited(client, job_id, timeout, as_json) if wait else client.compile_jobs.retrieve(job_id)
        show_job(job, as_json)
        if not as_json:
            show_low_answer(client, job)
    if wait:
        raise typer.Exit(exit_code(job))


@app.command()
def watch(job_id: JobId, timeout: Timeout = None, as_json: Json = False) -> None:
    """Follow a job until it is done, or paused: a bar, lines without a terminal, or with --json one object for each change.

    Exits as `create --wait`.
    """
    with connected() as client:
        job = waited(client, job_id, timeout, as_json, show_json_line if as_json else None)
        if not as_json:
            show_job(job, as_json)
            show_low_answer(client, job)
    raise typer.Exit(exit_code(job))


@app.command()
def start(job_id: JobId, as_json: Json = False) -> None:
    """Start a job that was created with auto_start: false."""
    with connected() as client:
        show_job(client.compile_jobs.start(job_id), as_json)


@app.command()
def cancel(job_id: JobId, as_json: Json = False) -> None:
    """Ask a job to stop."""
    with connected() as client:
        show_job(client.compile_jobs.cancel(job_id), as_json)


@app.command()
def delete(job_id: JobId, with_artifacts: WithArtifacts = False, dry_run: DryRun = False, yes: Yes = False, as_json: Json = False) -> None:
    """Erase a job that is over, with its details and the traces that no other job used."""
    cascade: Cascade | None = "artifacts" if with_artifacts else None
    with connected() as client:
        deleting.delete(
            lambda look: client.compile_jobs.delete(job_id, dry_run=look, cascade=cascade), dry_run=dry_run, yes=yes, as_json=as_json
        )


@app.command("cancel-all")
def cancel_all(
    created_by: CreatedBy = None,
    program: Annotated[str | None, typer.Option(help="Only jobs with this program name.")] = None,
    status: Annotated[str | None, typer.Option(help="Only jobs with this status.")] = None,
    project: ProjectOption = None,
    as_json: Json = False,
) -> None:
    """Ask all open jobs to stop that meet every filter; at least one is given."""
    filters = _filters(created_by=created_by, program=program, status=status, project=project)
    if not filters:
        stop("say which jobs: --created-by, --program, --status or --project", Exit.USAGE)
    with connected() as client:
        show_rows(client.compile_jobs.cancel_all(**filters), [("ID", lambda job: job.id), ("STATUS", lambda job: job.status)], as_json)


@app.command()
def pause(job_id: JobId, as_json: Json = False) -> None:
    """Ask a job to stand still with all it has."""
    with connected() as client:
        show_job(client.compile_jobs.pause(job_id), as_json)


@app.command()
def resume(job_id: JobId, wait: Wait = False, timeout: Timeout = None, as_json: Json = False) -> None:
    """Let a paused job go on where it stood."""
    check_waiting(wait, timeout)
    with connected() as client:
        ended(client, client.compile_jobs.resume(job_id), wait, timeout, as_json)


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
        show_job(client.compile_jobs.update(job_id, if_match=if_match, **changes), as_json)


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
    check_waiting(wait, timeout)
    with connected() as client:
        ended(client, client.compile_jobs.retry(job_id, fine_tuning_job=fine_tuning_job), wait, timeout, as_json)


@app.command()
def refilter(
    job_id: JobId,
    min_score: Annotated[float | None, typer.Option(help="The bar for rows.")] = None,
    top_k: Annotated[int | None, typer.Option(help="At most so many traces of one example.")] = None,
    max_rows: Annotated[int | None, typer.Option(help="At most so many rows a fine-tune job.")] = None,
    prompt_adapter: Annotated[str | None, typer.Option(help="The student's: chat, json, …")] = None,
    prompt: Annotated[str | None, typer.Option(help="compact, full or auto.")] = None,
    demos: Annotated[str | None, typer.Option(help="keep, drop or auto.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="More changes (YAML, JSON): lms, train_options, …", exists=True)] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Make another job from a job's traces: no teacher is called, and nothing is trained that was trained before."""
    check_waiting(wait, timeout)
    bars = {key: value for key, value in {"min_score": min_score, "top_k": top_k, "max_rows": max_rows}.items() if value is not None}
    chosen = {"prompt_adapter": prompt_adapter, "prompt": prompt, "demos": demos}
    named = {key: value for key, value in chosen.items() if value is not None}
    with connected() as client:
        given = JobFile(file) if file else None
        body: dict[str, Any] = {**(given.body if given else {}), **named}
        if bars:
            body["filter"] = {**(given.mapping("filter") if given else {}), **bars}
        with given.told_by_line() if given else nullcontext():
            job = client.compile_jobs.refilter(job_id, **body)
        ended(client, job, wait, timeout, as_json)


@app.command()
def logs(
    job_id: JobId,
    fine_tuning_job: FineTuningJob = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is done.")] = False,
    tail: Annotated[int | None, typer.Option(min=1, help="Only the last so many lines of each; of no effect with --follow.")] = None,
    as_json: Json = False,
) -> None:
    """Show what the trainers wrote, by LM and predictor."""
    with connected() as client:
        if follow:
            follow_logs(client, job_id, fine_tuning_job, as_json)
            return
        found = client.compile_jobs.logs(job_id, fine_tuning_job=fine_tuning_job, tail=tail).data
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
            show_json_line(event) if as_json else show_event(event)


# Last in the list of `--help`, as they come last in a job's life.
app.command("traces")(records.traces)
app.command("rejections")(records.rejections)
app.command("training-files")(records.training_files)
app.command("import")(import_traces)
