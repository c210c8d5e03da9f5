"""What a job made on its way, on the command line: training files, traces, rejections."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from stillhouse import Stillhouse
from stillhouse._pages import Page
from stillhouse.cli.output import Column, connected, console, show_json, show_json_line, show_table
from stillhouse.resources.compile_jobs import RecordFormat, RecordPart
from stillhouse.types import TrainingFile

T = TypeVar("T", bound=Any)
JobId = Annotated[str, typer.Argument(help="cjob-…")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many; a table shows 20, --json all.")]
Lines = Annotated[bool, typer.Option("--json", help="Print one JSON object a line: all of them, oldest first.")]
Predictor = Annotated[str | None, typer.Option(help="Only calls of this predictor.")]
_A_PAGE = 100
_TABLE = 20


def training_files(
    job_id: JobId,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write the files to, as JSON Lines.")] = None,
    format: Annotated[RecordFormat, typer.Option(help="trl: prompt and completion; openai: messages.")] = "trl",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the training files of a job, or download them."""
    with connected() as client:
        files = client.compile_jobs.training_files(job_id).data
        paths = [] if output is None else [path for file in files for path in _downloaded(client, job_id, file, output, format)]
        if as_json:
            show_json(files)
        elif output is not None:
            for path in paths:
                console.print(str(path), highlight=False, markup=False, soft_wrap=True)
        else:
            show_table(files, _FILE_COLUMNS)


_FILE_COLUMNS: list[Column] = [
    ("FINE-TUNE JOB", lambda file: file.fine_tuning_job),
    ("LM", lambda file: file.lm),
    ("PREDICTOR", lambda file: file.predictor),
    ("ROWS", lambda file: file.rows),
    ("VALIDATION", lambda file: file.validation_rows),
    ("DIGEST", lambda file: file.digest[:12]),
]


def _downloaded(client: Stillhouse, job_id: str, file: TrainingFile, folder: Path, format: RecordFormat) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(filter(None, (file.lm, file.predictor)))).strip("-.") or file.fine_tuning_job
    parts: list[RecordPart] = ["train", "validation"] if file.validation_rows else ["train"]
    for part in parts:
        path = folder / f"{name}-{part}.jsonl"
        yield client.compile_jobs.download_training_file(job_id, file.fine_tuning_job, path, format=format, part=part)


def traces(
    job_id: JobId,
    role: Annotated[str | None, typer.Option(help="teacher:0, baseline, teacher, compiled, …")] = None,
    passed: Annotated[bool | None, typer.Option("--passed/--failed", help="Only those whose score passes, or does not.")] = None,
    predictor: Predictor = None,
    limit: Limit = None,
    as_json: Lines = False,
) -> None:
    """Show the rollouts of a job with their scores."""
    with connected() as client:
        found = client.compile_jobs.traces.list(
            job_id, role=role, passed=passed, predictor=predictor, limit=_page_of(limit, as_json), order="asc"
        )
        _show(found, _TRACE_COLUMNS, limit, as_json)


_TRACE_COLUMNS: list[Column] = [
    ("ROW", lambda trace: trace.row),
    ("ROLE", lambda trace: trace.role),
    ("STATUS", lambda trace: trace.status),
    ("SCORE", lambda trace: (trace.score or {}).get("value")),
    ("OUTPUTS", lambda trace: json.dumps(trace.outputs, ensure_ascii=False)),
]


def rejections(
    job_id: JobId,
    reason: Annotated[str | None, typer.Option(help="Only with this reason.")] = None,
    predictor: Predictor = None,
    limit: Limit = None,
    as_json: Lines = False,
) -> None:
    """Show what was not trained on, and why."""
    with connected() as client:
        found = client.compile_jobs.rejections(job_id, reason=reason, predictor=predictor, limit=_page_of(limit, as_json), order="asc")
        _show(found, _REJECTION_COLUMNS, limit, as_json)


_REJECTION_COLUMNS: list[Column] = [
    ("ROW", lambda rejection: rejection.row),
    ("PREDICTOR", lambda rejection: rejection.predictor),
    ("REASON", lambda rejection: rejection.reason),
    ("SCORE", lambda rejection: rejection.score),
    ("MESSAGE", lambda rejection: rejection.message),
]


def _page_of(limit: int | None, as_json: bool) -> int:
    return min(_A_PAGE, limit or (_A_PAGE if as_json else _TABLE))


def _show(found: Page[T], columns: list[Column], limit: int | None, as_json: bool) -> None:
    """Pages are read as far as they are shown."""
    if as_json:
        for row in islice(found, limit):
            show_json_line(row)
    else:
        show_table(islice(found, limit or _TABLE), columns)
