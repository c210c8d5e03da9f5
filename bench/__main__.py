"""`python -m bench [--only AREA …] [--quick] [--out FILE]`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.areas import AREAS, measure_of
from bench.report import AreaRun, Figure, Report, this_machine, today
from bench.session import BASE_MODEL, Session
from bench.table import table_of

RESULTS = "bench-results.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the areas one after another; exit status 1 when none of them could be measured."""
    options = _parser().parse_args(argv)
    home = Path(os.environ.get("STILLHOUSE_HOME", ".stillhouse")).absolute()
    out = options.out or home / RESULTS
    console = Console()
    with _scratch() as scratch:
        session = Session(options.quick, options.seed, home, scratch, options.base_model)
        report = run(session, options.only or list(AREAS), console, out, options.keep_logs)
    Console(width=max(console.width, 150)).print(table_of(report))
    console.print(f"Written to {out}", soft_wrap=True)
    return 0 if any(run.status == "ok" for run in report.areas) else 1


def _parser() -> argparse.ArgumentParser:
    listed = "; ".join(f"{name}: {what}" for name, what in AREAS.items())
    parser = argparse.ArgumentParser(prog="python -m bench", description=f"Measure this server beside its alternatives. Areas: {listed}.")
    parser.add_argument("--only", nargs="+", choices=list(AREAS), metavar="AREA", help="these areas alone")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that all works, gives no figures to quote")
    parser.add_argument("--out", type=Path, help=f"the JSON file; {RESULTS} in STILLHOUSE_HOME unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base-model", default=BASE_MODEL, help="for training and lm_host")
    parser.add_argument("--keep-logs", type=Path, help="a folder that gets the logs of all processes")
    return parser


def run(session: Session, names: Sequence[str], console: Console, out: Path, keep_logs: Path | None = None) -> Report:
    """Measure the named areas. An area that fails leaves its reason and no figure; the others go on.

    `out` is written after each area: a run takes an hour or two, and may be broken off.
    """
    report = Report(
        date=today(),
        quick=session.quick,
        seed=session.seed,
        base_model=session.base_model,
        machine=this_machine(),
        areas=[],
        figures=[],
    )
    with _progress(console) as progress:
        for name in names:
            made, found = _measure(session, name, progress)
            report = report.model_copy(update={"areas": [*report.areas, made], "figures": [*report.figures, *found]})
            report.save(out)
    if keep_logs is not None:
        _copy_logs(session.scratch, keep_logs)
    return report


def _progress(console: Console) -> Progress:
    area, what = TextColumn("{task.fields[area]:>9}"), TextColumn("{task.description}")
    return Progress(area, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), what, console=console)


def _measure(session: Session, name: str, progress: Progress) -> tuple[AreaRun, list[Figure]]:
    bar = progress.add_task("", area=name, total=None)
    _connect(session, progress, bar)
    started = time.monotonic()
    try:
        figures = measure_of(name)(session)
    except Exception as error:
        progress.update(bar, description="[red]failed")
        progress.stop_task(bar)
        progress.console.print(f"{name}: {traceback.format_exc()}", style="dim", highlight=False, markup=False)
        return AreaRun(area=name, status="failed", seconds=_since(started), error=f"{type(error).__name__}: {error}"), []
    progress.update(bar, description="done", total=progress.tasks[bar].completed)
    return AreaRun(area=name, status="ok", seconds=_since(started)), figures


def _connect(session: Session, progress: Progress, bar: TaskID) -> None:
    """Let the session's words move this bar. A tick names what begins, so the bar counts what was begun before it."""
    begun = [0]

    def tick(what: str) -> None:
        progress.update(bar, completed=begun[0], description=what)
        begun[0] += 1

    session.expect = lambda total: progress.update(bar, total=total)
    session.tick = tick


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder on a real disk, which durable databases are measured on."""
    folder = Path(tempfile.mkdtemp(prefix="stillhouse-bench-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy_logs(scratch: Path, target: Path) -> None:
    for log in scratch.rglob("*.log"):
        place = target / log.relative_to(scratch)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, place)


if __name__ == "__main__":
    sys.exit(main())
