"""`make demo`: distil a question classifier from a teacher, measure it, download it, load it elsewhere, ask it one question."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from examples.trec import around_bars
from examples.trec import report as reporting
from examples.trec.data import DataUnavailable, Split, balanced_demos, load_split
from examples.trec.program import student_spec, teacher_spec
from stack.console import Shown
from stack.errors import AlreadyRunning, StackError
from stack.supervisor import Stack
from stillhouse import Stillhouse, StillhouseError
from stillhouse.types import CompileJob

BASE_MODEL = "smollm2-135m-instruct"
PROGRAM_NAME = "question-router"
QUESTION = "Who painted the ceiling of the Sistine Chapel ?"
IN_FLIGHT = 32
DEMO_SEED = 4
"""Picks the teacher's demos, which come from neither the trainset nor the held-out rows. Chosen on the first 96 rows of the trainset."""

ASK = """
import sys
import stillhouse
from dspy.utils.exceptions import AdapterParseError
program = stillhouse.load(sys.argv[1])
try:
    print(program(question=sys.argv[2]).category)
except AdapterParseError:
    print("nothing that can be read: it has learned from too few rows")
"""


@dataclass(frozen=True)
class Size:
    """How much of the task one run takes."""

    train: int
    held_out: int
    rollouts: int
    demos: int
    seed: int


class DemoFailed(Exception):
    """The job did not succeed; the text is its error."""


def main(
    teacher: Annotated[str | None, typer.Option(help="`openai/<model>`: a provider's teacher, with OPENAI_API_KEY.")] = None,
    train: Annotated[int, typer.Option(min=20)] = 600,
    held_out: Annotated[int, typer.Option(min=10)] = 300,
    rollouts: Annotated[int, typer.Option(min=1, max=64, help="Up to so many answers of the teacher an example.")] = 8,
    demos: Annotated[int, typer.Option(min=0)] = 12,
    seed: int = 0,
    home: Annotated[Path, typer.Option(envvar="STILLHOUSE_HOME")] = Path(".stillhouse"),
    port: int = 8400,
) -> None:
    """Run the whole path on TREC-6 and report what came out."""
    console = around_bars.console(sys.stdout)
    size = Size(train, held_out, rollouts, demos, seed)
    try:
        _demonstrate(console, home.resolve(), port, size, teacher)
    except (StackError, StillhouseError, DataUnavailable, DemoFailed) as error:
        console.print(Text(str(error), style="red"))
        raise typer.Exit(1) from None


def _demonstrate(console: Console, home: Path, port: int, size: Size, teacher: str | None) -> None:
    started = time.monotonic()
    split = load_split(home / "downloads", size.train, size.held_out, size.seed)
    with _server(console, home, port, teacher) as server:
        ready = time.monotonic()
        with Stillhouse(base_url=server.base_url, api_key=server.api_key) as client:
            job = _compile(console, client, split, size, teacher)
            artifact_id = _artifact_id(job)
            folder = client.artifacts.download(artifact_id, home / "artifacts" / artifact_id)
            report = reporting.build_report(job, ready - started, time.monotonic() - started, size.seed)
            calls = _what_calls_changed(client, job, report["delta"]["against"])
        (home / "demo-report.json").write_text(json.dumps(report, indent=2) + "\n")
        _show(console, report, size, teacher)
        console.print("\n".join(calls), markup=False)
        _ask_elsewhere(console, folder, server)
        _farewell(console, home, server)


# ------------------------------------------------------------------ the server


@dataclass(frozen=True)
class Server:
    """Where to send requests; `stack` is None when it was running already."""

    base_url: str
    api_key: str
    stack: Stack | None


@contextmanager
def _server(console: Console, home: Path, port: int, teacher: str | None) -> Iterator[Server]:
    """The server that runs on this home, or one started here and stopped at the end."""
    stack = Stack(home, port=port, base_model=BASE_MODEL, reporter=Shown(console), environment=_teacher_environment(teacher))
    try:
        stack.start()
    except AlreadyRunning:
        credentials = json.loads((home / "credentials.json").read_text())
        yield Server(credentials["base_url"], credentials["api_key"], None)
        return
    try:
        yield Server(stack.base_url, stack.api_key, stack)
    finally:
        stack.stop()


def _teacher_environment(teacher: str | None) -> dict[str, str]:
    if teacher is None:
        return {}
    if not os.environ.get("OPENAI_API_KEY"):
        raise DemoFailed("TEACHER=openai/… needs OPENAI_API_KEY in the environment.")
    provider = {"base_url": os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"), "api_key_env": "OPENAI_API_KEY", "models": "*"}
    return {"STILLHOUSE_CONNECTIONS": json.dumps({"openai": provider})}


# ------------------------------------------------------------------ the job


def _compile(console: Console, client: Stillhouse, split: Split, size: Size, teacher: str | None) -> CompileJob:
    student = client.programs.create(student_spec(), name=PROGRAM_NAME)
    shown = client.programs.create(teacher_spec(balanced_demos(split.pool, size.demos, DEMO_SEED)), name=f"{PROGRAM_NAME}-teacher")
    trainset = client.datasets.create(split.train, name="trec-train")
    valset = client.datasets.create(split.held_out, name="trec-held-out")
    job = client.compile_jobs.create(
        name="TREC-6 example",
        program_name=PROGRAM_NAME,
        program=student.id,
        lms={"student": {"connection": "house", "model": BASE_MODEL, "temperature": 0.0, "max_tokens": 32}},
        teacher=[{"program": shown.id, "lms": {"student": _teacher_lm(teacher)}}],
        trainset=trainset.id,
        valset=valset.id,
        metric={"type": "exact_match", "fields": ["category"]},
        prompt="compact",
        rollouts={"n": size.rollouts, "stop_on_pass": True},
        evaluate={"roles": list(reporting.ROLES)},
        num_threads=IN_FLIGHT,
        seed=size.seed,
    )
    console.print(f"Job {job.id}: {size.train} examples, up to {size.rollouts} answers each; {size.held_out} held out.")
    job = client.compile_jobs.wait(job.id, progress=True)
    if job.status != "succeeded":
        raise DemoFailed(f"The job {job.status}: {job.error.message if job.error else 'no reason given'}")
    return job


def _teacher_lm(teacher: str | None) -> dict[str, Any]:
    if teacher is None:
        return {"connection": "house", "model": BASE_MODEL, "temperature": 1.0, "max_tokens": 32, "constrain": True}
    connection, _, model = teacher.partition("/")
    return {"connection": connection, "model": model, "temperature": 1.0, "max_tokens": 64}


def _what_calls_changed(client: Stillhouse, job: CompileJob, against: str | None) -> list[str]:
    """Return what all calls took, and a held-out question each that compiling fixed and broke."""
    fixes, regressions = (client.compile_jobs.pairs(job.id, change=kind, against=against, limit=1).data for kind in ("fix", "regression"))
    return [reporting.cost_line(client.compile_jobs.cost(job.id)), *reporting.change_lines(fixes, regressions)]


def _artifact_id(job: CompileJob) -> str:
    if job.artifact is None:
        raise DemoFailed("The job succeeded without an artifact.")
    return job.artifact.id


# ------------------------------------------------------------------ what people see


def _show(console: Console, report: dict[str, Any], size: Size, teacher: str | None) -> None:
    who = f"{teacher or 'the same model, constrained'}, {size.demos} demos"
    console.print(reporting.results_table(report, who))
    console.print(reporting.delta_line(report))
    console.print(reporting.seconds_table(report))
    calls = report["teacher_calls"]
    reused = " Every answer of the teacher came from the trace store." if calls == 0 else ""
    console.print(f"LM calls in this run: {report['lm_calls']}, of which the teacher's: {calls}.{reused}")
    console.print(reporting.OTHER_TEACHER if teacher else reporting.OWN_TEACHER)
    console.print(reporting.NOT_SHOWN)


def _ask_elsewhere(console: Console, folder: Path, server: Server) -> None:
    """A fresh Python process with nothing but the client, dspy and the downloaded artifact."""
    environment = {**os.environ, "STILLHOUSE_BASE_URL": server.base_url, "STILLHOUSE_API_KEY": server.api_key}
    done = subprocess.run([sys.executable, "-c", ASK, str(folder), QUESTION], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoFailed(f"The artifact could not be loaded in a fresh process:\n{done.stderr[-2000:]}")
    console.print(f"A fresh process loaded the artifact. It was asked: {QUESTION}\nIt answered: [bold]{done.stdout.strip()}[/bold]")


def _farewell(console: Console, home: Path, server: Server) -> None:
    console.print(f"Report: {home / 'demo-report.json'}")
    if server.stack is None:
        console.print(f"The server at {server.base_url} was running already and goes on.")
    elif sys.stdout.isatty():
        console.print(f"The server goes on at {server.base_url} (API pages: {server.base_url}/docs). Ctrl-C stops it.")
        console.print("Next: `stillhouse jobs list`, `stillhouse artifacts list`, or `make demo` again: it makes no teacher calls.")
        _until_interrupted(server.stack)
    else:
        console.print("The server stops now. Next: `make serve` starts it again; `make demo` again makes no teacher calls.")


def _until_interrupted(stack: Stack) -> None:
    try:
        stack.wait()
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    typer.run(main)
