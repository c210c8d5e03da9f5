"""What to do about a job that failed, in the words of Python or of the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stillhouse.types import CompileJob, JobError


def cause(error: JobError) -> str:
    """Its message without advice at the end that is a request to the API, of which the data has the parts; other advice stays."""
    data = _data(error)
    if "refilter" not in data and "options" not in data:
        return error.message
    return error.message.removesuffix(str(data.get("advice") or "")).rstrip()


def in_python(job: CompileJob) -> str:
    """For users of the drop-in; empty where the cause says it all."""
    data = _data(job.error)
    if "advice" not in data:
        return ""
    advice = ["optimizer.failed_examples() gives the examples, each with what became of it."]
    if change := data.get("refilter"):
        options = ", ".join(f"{name}={value!r}" for name, value in change.items())
        advice.append(
            f'stillhouse.Stillhouse().compile_jobs.refilter("{job.id}", {options}) makes another job of its traces, with no teacher calls; '
            "the same compile call then goes on with that job."
        )
    if "multitask" in data.get("options", {}):
        advice.append("With multitask=True predictors of one LM share their rows.")
    return " ".join(advice)


def in_commands(job: CompileJob) -> str:
    """For users of the command line; empty where the cause says it all."""
    data = _data(job.error)
    if "advice" not in data:
        return ""
    advice = [f"`stillhouse jobs rejections {job.id}` lists what became of the examples."]
    if change := data.get("refilter"):
        bar = change.get("filter", {}).get("min_score")
        how = "-f FILE" if bar is None else f"--min-score {bar}"
        told = f" with {_line(change)} in the file" if bar is None else ""
        advice.append(f"`stillhouse jobs refilter {job.id} {how}`{told} makes another job of its traces, with no teacher calls.")
    options = data.get("options", {})
    if "smoke_test" in options:
        advice.append("`smoke_test: null` in the job's file goes on all the same, and what was run is reused.")
    if "multitask" in options:
        advice.append("With `multitask: true` in the job's file predictors of one LM share their rows.")
    return " ".join(advice)


def _data(error: JobError | None) -> Mapping[str, Any]:
    return (error.data if error is not None else None) or {}


def _line(options: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in options.items())
