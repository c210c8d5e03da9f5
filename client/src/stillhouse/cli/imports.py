"""`stillhouse jobs import`: traces that exist already, before the job that needs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from stillhouse import Stillhouse, imports
from stillhouse.cli.files import FileProblem, parse_pairs, read_text
from stillhouse.cli.job_files import JobFile, uploaded
from stillhouse.cli.output import Exit, Json, connected, console, errors, show_json
from stillhouse.imports import Matched, Read, Rejected
from stillhouse.types import CompileJob, Stored

Format = Literal["jsonl", "openinference", "langfuse"]
Reader = Callable[[Mapping[str, Any]], Read]
_A_PAGE = 100
_LOOK_SECONDS = 10.0
_SHOWN = 20


def import_traces(
    traces: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The export.")],
    file: Annotated[Path, typer.Option("--file", "-f", help="Job file, as of `create`; CSV files are uploaded for it.", exists=True)],
    format: Annotated[Format, typer.Option(help="What wrote the export.")] = "jsonl",
    predictor: Annotated[
        list[str] | None,
        typer.Option("--predictor", help="SPAN=PREDICTOR where fields do not tell which spans are its calls; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Give a job's traces before it is made: what stands in an export is asked of no teacher. The job itself is made by `create` then."""
    with connected() as client:
        reader = _reader(traces, format, parse_pairs(predictor or []))
        given = JobFile(file)
        rollouts = given.mapping("rollouts")
        with given.told_by_line():
            job = _carrier(client, uploaded(client, given.body), rollouts)
        try:
            job = _validated(client, job)
            read = _read(reader, client.programs.retrieve(str(job.program)).spec)
            found = _placed(client, job, read)
            stored = client.compile_jobs.traces.create(job.id, found.traces, source="import") if found.traces else None
        finally:
            if not job.is_final:
                client.compile_jobs.cancel(job.id)
    _show(found, stored, as_json)


def _carrier(client: Stillhouse, body: Mapping[str, Any], rollouts: Mapping[str, Any]) -> CompileJob:
    """A job that only a client could run, so that nothing of it is asked; traces are the project's, and the next job finds them."""
    return client.compile_jobs.create(**{**body, "rollouts": {**rollouts, "where": "client"}, "auto_start": True})


def _validated(client: Stillhouse, job: CompileJob) -> CompileJob:
    while job.step == "validate" and not job.stands_still:
        job = client.compile_jobs.retrieve(job.id, wait=_LOOK_SECONDS)
    if job.step == "validate":
        said = job.error.message if job.error else f"the job is {job.status}"
        raise FileProblem(f"the job cannot be prepared, so its traces have no place: {said}")
    return job


def _reader(path: Path, format: Format, names: Mapping[str, str]) -> Reader:
    """The file is read here, so that one that cannot be makes no job; what it means, its program says. Raises FileProblem."""
    if format == "jsonl":
        lines = _recorded(path)
        return lambda program: lines
    found = list(_objects(path))
    reader = imports.from_openinference if format == "openinference" else imports.from_langfuse
    return lambda program: reader(found, names, program=program)


def _recorded(path: Path) -> Read:
    try:
        return imports.from_jsonl(path)
    except (OSError, UnicodeDecodeError) as error:
        raise FileProblem(f"{path}: {error}") from None


def _read(reader: Reader, program: Mapping[str, Any]) -> Read:
    """What the export holds, of the predictors that the program has."""
    read = reader(program)
    own = [each["name"] for each in program["predictors"]]
    fit, rejected = [], list(read.rejected)
    for found in read.traces:
        strange = [call["predictor"] for call in found.trace.get("calls", ()) if call.get("predictor") not in own]
        if strange:
            rejected.append(Rejected(found.number, f"it calls `{strange[0]}`, and the program has {', '.join(own)}", found.id))
        else:
            fit.append(found)
    return Read(fit, rejected)


def _objects(path: Path) -> Iterator[Any]:
    """Of a JSON array, a page of an API (`data`), one object, or JSON Lines. Raises FileProblem with the line."""
    text = read_text(path)
    try:
        whole = json.loads(text)
    except ValueError:
        yield from _lines(path, text)
        return
    if isinstance(whole, dict):
        whole = whole["data"] if isinstance(whole.get("data"), list) else [whole]
    if not isinstance(whole, list) or not all(isinstance(each, dict) for each in whole):
        raise FileProblem(f"{path}: expected objects")
    yield from whole


def _lines(path: Path, text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as fault:
            raise FileProblem(f"{path} line {number}: not valid JSON: {fault}") from None
        if not isinstance(found, dict):
            raise FileProblem(f"{path} line {number}: expected an object")
        yield found


def _placed(client: Stillhouse, job: CompileJob, read: Read) -> Matched:
    """In the trainset under the teacher that teaches, else in the valset under the teacher that is measured."""
    n = int(job.rollouts.get("n") or 1)
    taught = imports.match(read.traces, _rows(client, str(job.trainset)), rollouts=n)
    if job.valset is None:
        return Matched(taught.traces, [*read.rejected, *taught.rejected])
    placed = {(each.number, each.id) for each in taught.rejected}
    left = [found for found in read.traces if (found.number, found.id) in placed]
    measured = imports.match(left, _rows(client, job.valset), role="teacher")
    lost = {each.number for each in measured.rejected}
    return Matched([*taught.traces, *measured.traces], [*read.rejected, *(each for each in taught.rejected if each.number in lost)])


def _rows(client: Stillhouse, dataset: str) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    start: int | None = 1
    while start is not None:
        page = client.datasets.rows(dataset, start=start, limit=_A_PAGE)
        rows += [row.data for row in page.data]
        start = page.next_row
    return rows


def _show(found: Matched, stored: Stored | None, as_json: bool) -> None:
    new = stored.new if stored else 0
    rejected = sorted(found.rejected, key=lambda each: each.number)
    if as_json:
        plain = [{"number": each.number, "id": each.id, "reason": each.reason} for each in rejected]
        show_json({"received": len(found.traces), "new": new, "rejected": plain})
    else:
        console.print(f"{len(found.traces)} traces have a row, {new} of them were not there yet", highlight=False)
        for each in rejected[:_SHOWN]:
            name = f" ({each.id})" if each.id else ""
            errors.print(f"  {each.number}{escape(name)}: {escape(each.reason)}", highlight=False, soft_wrap=True)
        if len(rejected) > _SHOWN:
            errors.print(f"  and {len(rejected) - _SHOWN} more; --json lists all", highlight=False)
    if not found.traces:
        raise typer.Exit(Exit.FAILED)
