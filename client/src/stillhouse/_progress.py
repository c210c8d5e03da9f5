"""Progress of a job or an upload: one bar in a terminal or a notebook, lines in a log."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stillhouse._extras import extra
from stillhouse.types import CompileJob, Holder

OnUpdate = Callable[[CompileJob], None]
OnSent = Callable[[int], None] | None


class JobProgress:
    """How far a job is, on standard error. Without a terminal a line is written when the step, or what the job waits for, changes."""

    _TEXT = "{desc:<9} {percentage:3.0f}%|{bar:10}| [{elapsed}{postfix}]"
    _NOTEBOOK = "{desc:<9} {percentage:3.0f}%|{bar}| [{elapsed}{postfix}]"

    def __init__(self) -> None:
        self._bar: Any = None
        self._last: tuple[str, str] | None = None

    def update(self, job: CompileJob) -> None:
        if _in_notebook():
            self._draw(job, "tqdm.notebook", self._NOTEBOOK)
        elif sys.stderr.isatty():
            self._draw(job, "tqdm", self._TEXT)
        else:
            self._write(job)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _draw(self, job: CompileJob, module: str, bar_format: str) -> None:
        if self._bar is None:
            self._bar = _tqdm(module)(total=100, desc=_stage(job), bar_format=bar_format)
        self._bar.n = job.progress.percent
        self._bar.set_description_str(_stage(job), refresh=False)
        self._bar.set_postfix_str(waits_for(job) or _count(job), refresh=False)
        self._bar.refresh()

    def _write(self, job: CompileJob) -> None:
        waits = waits_for(job)
        shown = _stage(job), re.sub(r"\d+", "", waits)  # a countdown or a place in a queue is no new reason
        if shown != self._last:
            self._last = shown
            print(" ".join(filter(None, (job.id, f"{job.progress.percent}%", _stage(job), waits or _count(job)))), file=sys.stderr)


def waits_for(job: CompileJob) -> str:
    """What a job of which nothing runs waits for, who has it, and for about how long; empty while something runs."""
    if job.queue is None or not job.waiting or job.stands_still:
        return ""
    about = None if job.queue.estimated_seconds is None else f"about {duration(job.queue.estimated_seconds)}"
    holders = [f"{name_of(holder)} has it" for holder in job.queue.held_by]
    return ", ".join(filter(None, (job.queue.reason, about, *holders)))


def name_of(holder: Holder) -> str:
    """The job that a caller may see, or that it is another project's."""
    which = " ".join(filter(None, (holder.job, holder.name))) or "a job of another project"
    return f"{which}, made by {holder.owner}" if holder.owner else which


def duration(seconds: int) -> str:
    if seconds < 90:
        return f"{seconds} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def watcher(progress: bool, on_update: OnUpdate | None) -> Iterator[OnUpdate]:
    """What to call with each state of the job."""
    shown = JobProgress() if progress else None

    def update(job: CompileJob) -> None:
        if shown:
            shown.update(job)
        if on_update:
            on_update(job)

    try:
        yield update
    finally:
        if shown:
            shown.close()


@contextmanager
def resumable(job_id: str, progress: bool) -> Iterator[None]:
    """Around a wait whose progress is shown: after Ctrl-C a line says that the job goes on, and how to wait for it again."""
    try:
        yield
    except KeyboardInterrupt:
        if progress:
            again = f'client.compile_jobs.wait("{job_id}", progress=True)'
            print(f'{job_id} goes on. {again} follows it again, client.compile_jobs.cancel("{job_id}") stops it', file=sys.stderr)
        raise


@contextmanager
def sending(path: Path | None) -> Iterator[OnSent]:
    """What to tell how many bytes of a file have gone out: a bar on standard error, in a log one line at the end; nothing for no file."""
    if path is None:
        yield None
        return
    if not _in_notebook() and not sys.stderr.isatty():
        yield None
        print(f"{path.name}: {path.stat().st_size} bytes sent", file=sys.stderr)
        return
    with _tqdm("tqdm.notebook" if _in_notebook() else "tqdm")(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True) as bar:

        def on_sent(count: int) -> None:
            bar.n = count
            bar.refresh()

        yield on_sent


def _tqdm(module: str) -> Any:
    with extra("cli"):
        return import_module(module).tqdm


def _in_notebook() -> bool:
    """Whether widgets are shown here; without ipywidgets a notebook gets lines, as a log does."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config and find_spec("ipywidgets") is not None


def _stage(job: CompileJob) -> str:
    """The step while the job runs, else its status."""
    return job.step if job.status == "running" and job.step else job.status


def _count(job: CompileJob) -> str:
    """How many of the step's parts are done."""
    found = next((step for step in job.steps if step.name == job.step), None)
    return "" if found is None or job.status != "running" else f"{found.done}/{found.total}"
