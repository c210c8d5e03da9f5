"""`stillhouse projects …`, `stillhouse audit-log`, `stillhouse usage`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from stillhouse.cli import deleting
from stillhouse.cli.deleting import DryRun, Yes
from stillhouse.cli.output import (
    Exit,
    Json,
    Limit,
    ProjectOption,
    connected,
    console,
    show_json,
    show_one,
    show_rows,
    show_table,
    stop,
    when,
)
from stillhouse.types.account import Project as ProjectObject

Project = Annotated[str, typer.Argument(help="Its name or id.")]
LimitOption = Annotated[str | None, typer.Option(metavar="NUMBER", help="A number, or `settings`.")]
ArtifactsOption = Annotated[
    str | None,
    typer.Option(metavar="NUMBER", help="Of artifacts without an alias, also if they are called by id: set an alias to keep one."),
]
app = typer.Typer(no_args_is_help=True, help="Projects: what keys, jobs, data and models belong to.")


@app.command()
def create(name: str, as_json: Json = False) -> None:
    """Make a project. Only admins of the project default may; `keys create --project` makes its first key."""
    with connected() as client:
        made = client.projects.create(name)
        show_one(made, made.id, made.name, as_json)


@app.command()
def get(project: Project, as_json: Json = False) -> None:
    """Show what a project may use, and whether settings or an operator said so."""
    with connected() as client:
        _show(client.projects.retrieve(project), as_json)


@app.command()
def update(
    project: Project,
    share: LimitOption = None,
    max_threads: LimitOption = None,
    max_jobs: LimitOption = None,
    month_teacher_usd: LimitOption = None,
    month_compute_seconds: LimitOption = None,
    max_blob_gb: LimitOption = None,
    keep_traces_days: LimitOption = None,
    keep_events_days: LimitOption = None,
    keep_job_details_days: LimitOption = None,
    keep_artifacts_days: ArtifactsOption = None,
    keep_audit_log_days: LimitOption = None,
    as_json: Json = False,
) -> None:
    """Change what a project may use, and for how many days it keeps things (0: for ever); `settings` gives a limit back to the
    server's settings. For operators."""
    asked = (
        ("share", share, float),
        ("max_threads", max_threads, int),
        ("max_jobs", max_jobs, int),
        ("month_teacher_usd", month_teacher_usd, float),
        ("month_compute_seconds", month_compute_seconds, float),
        ("max_blob_gb", max_blob_gb, float),
        ("keep_traces_days", keep_traces_days, int),
        ("keep_events_days", keep_events_days, int),
        ("keep_job_details_days", keep_job_details_days, int),
        ("keep_artifacts_days", keep_artifacts_days, int),
        ("keep_audit_log_days", keep_audit_log_days, int),
    )
    limits: Any = {name: _number(name, text, kind) for name, text, kind in asked if text is not None}
    if not limits:
        stop(f"say what to change: {', '.join('--' + name.replace('_', '-') for name, _, _ in asked)}", Exit.USAGE)
    with connected() as client:
        _show(client.projects.update(project, **limits), as_json)


@app.command()
def delete(project: Project, dry_run: DryRun = False, yes: Yes = False, as_json: Json = False) -> None:
    """Erase a project with all it has: keys, jobs, data, artifacts, models, usage. For operators."""
    with connected() as client:
        deleting.delete(lambda look: client.projects.delete(project, dry_run=look), dry_run=dry_run, yes=yes, as_json=as_json)


def _number(name: str, text: str, kind: type[int] | type[float]) -> float | None:
    if text == "settings":
        return None
    try:
        return kind(text)
    except ValueError:
        stop(f"--{name.replace('_', '-')}: {text} is no number, nor the word settings", Exit.USAGE)


def _show(project: ProjectObject, as_json: bool) -> None:
    if as_json:
        show_json(project)
        return
    rows = [(name, limit.value, limit.source) for name, limit in project.limits.items()]
    use, keep = ([row for row in rows if row[0].startswith("keep_") is kept] for kept in (False, True))
    for heading, shown in (("MAY USE", use), ("KEEPS DAYS", keep)):
        show_table(shown, [(project.name, lambda row: row[0]), (heading, lambda row: _limit(*row[:2])), ("SAID BY", lambda row: row[2])])


def _limit(name: str, value: float | None) -> str:
    if value == 0 and name.startswith("keep_"):
        return "for ever"
    return "" if value is None else f"{value:,g}"


@app.command("list")
def list_projects(limit: Limit = 20, as_json: Json = False) -> None:
    """List projects: all of them for admins of the project default, else the key's own."""
    with connected() as client:
        show_rows(
            client.projects.list(limit=limit).data,
            [
                ("ID", lambda project: project.id),
                ("NAME", lambda project: project.name),
                ("SHARE", lambda project: project.share),
                ("THREADS", lambda project: project.max_threads),
            ],
            as_json,
        )


def audit_log(
    action: Annotated[str | None, typer.Option(help="Only this, as alias.moved.")] = None,
    object_id: Annotated[str | None, typer.Option("--object", help="Only what was done to it.")] = None,
    key: Annotated[str | None, typer.Option(help="Only what this key (key-…) did.")] = None,
    project: ProjectOption = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show who did what, newest first. Needs the scope admin or operator."""
    given = (("action", action), ("object_id", object_id), ("key_id", key), ("project", project))
    narrow = {name: value for name, value in given if value is not None}
    with connected() as client:
        show_rows(
            client.audit_log.list(**narrow, limit=limit).data,
            [
                ("WHEN", lambda entry: when(entry.created_at)),
                ("ACTION", lambda entry: entry.action),
                ("OBJECT", lambda entry: entry.object_id),
                *([("PROJECT", lambda entry: entry.project)] if project else []),
                ("KEY", lambda entry: entry.key_id),
                ("WHAT", lambda entry: json.dumps(entry.data, ensure_ascii=False)),
            ],
            as_json,
        )


def usage(
    month: Annotated[str | None, typer.Option(help="YYYY-MM, of UTC; this month unless given.")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=366, help="Who used what in so many days, up to now.")] = None,
    project: ProjectOption = None,
    as_json: Json = False,
) -> None:
    """Show what the project has used in a month, beside its quotas; or who used it, by API key."""
    if days is not None:
        if month is not None:
            stop("--month and --days do not go together", Exit.USAGE)
        _usage_by_key(days, project, as_json)
        return
    if project == "*":
        _usage_by_project(month, as_json)
        return
    with connected() as client:
        used = client.usage.retrieve(month, project=project)
        if as_json:
            show_json(used)
            return
        jobs, money, seconds = (used.quotas.get(name) for name in ("max_jobs", "month_teacher_usd", "month_compute_seconds"))
        rows = [
            ("jobs that are not over", _amount(used.open_jobs), _amount(jobs)),
            ("jobs made", _amount(used.jobs), ""),
            ("rollouts", _amount(used.rollouts), ""),
            ("LM calls", _amount(used.calls), ""),
            ("tokens", _amount(used.prompt_tokens + used.completion_tokens), ""),
            ("teachers, US$", _amount(used.teacher_usd, 2), _amount(money, 2)),
            ("compute-seconds", _amount(used.compute_seconds), _amount(seconds)),
            ("stored now, GB", _amount(used.blob_bytes / 1e9, 3), _amount(used.quotas.get("max_blob_gb"), 3)),
        ]
        show_table(
            rows, [(f"{used.project} {used.month}", lambda row: row[0]), ("USED", lambda row: row[1]), ("QUOTA", lambda row: row[2])]
        )
        console.print(f"resets {when(used.resets_at)}", *used.unknown, sep="; ", style="dim", highlight=False)


def _amount(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _usage_by_project(month: str | None, as_json: bool) -> None:
    with connected() as client:
        show_rows(
            list(client.usage.by_project(month)),
            [
                ("PROJECT", lambda used: used.project),
                ("OPEN JOBS", lambda used: _amount(used.open_jobs)),
                ("COMPUTE-SECONDS", lambda used: _amount(used.compute_seconds)),
                ("TEACHERS, US$", lambda used: _amount(used.teacher_usd, 2)),
                ("JOBS", lambda used: _amount(used.jobs)),
                ("LM CALLS", lambda used: _amount(used.calls)),
                ("STORED, GB", lambda used: _amount(used.blob_bytes / 1e9, 3)),
            ],
            as_json,
        )


def _usage_by_key(days: int, project: str | None, as_json: bool) -> None:
    with connected() as client:
        show_rows(
            client.usage.by_key(days, project=project).data,
            [
                ("LABEL", lambda row: row.label),
                ("KEY", lambda row: row.key_id),
                ("COMPUTE-SECONDS", lambda row: _amount(row.compute_seconds)),
                ("TEACHERS, US$", lambda row: _amount(row.teacher_usd, 2)),
                ("JOBS", lambda row: _amount(row.jobs)),
                ("LM CALLS", lambda row: _amount(row.calls)),
                ("TOKENS", lambda row: _amount(row.tokens)),
            ],
            as_json,
        )
