"""Follows a job to its end: shows its progress, makes its rollouts where they are to be made here, and asks at Ctrl-C what to do."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import dspy

from stillhouse._client import Stillhouse
from stillhouse._exceptions import APIError
from stillhouse._wait import StepBars, patiently
from stillhouse.dropin.runner import ItemRun
from stillhouse.types import CompileJob, WorkItem

POLL_SECONDS = 10.0
_LOOK_SECONDS = 2.0


def follow(client: Stillhouse, job: CompileJob, programs: Mapping[str, dspy.Module], metric: Any) -> CompileJob:
    """The job when it stands still. `programs`: that of `student`, and of each `teacher:N`; empty where the server runs them.

    A server that is away is waited for. Raises KeyboardInterrupt after Ctrl-C; the same call later goes on with the job unless it was
    cancelled.
    """
    bars = StepBars()
    try:
        while not job.stands_still:
            bars.update(job)
            item = _claim(client, job) if programs else None
            if item is not None:
                _work_off(client, job, ItemRun(client, item, _program(programs, item), metric), bars)
            job = _look(client, job, None if item is not None else POLL_SECONDS)
        bars.update(job)
        return job
    except KeyboardInterrupt:
        _ask(client, job)
        raise
    finally:
        bars.close()


def _claim(client: Stillhouse, job: CompileJob) -> WorkItem | None:
    return patiently(lambda: client.work_items.claim(job=job.id, width=job.num_threads))


def _look(client: Stillhouse, job: CompileJob, wait: float | None) -> CompileJob:
    return patiently(lambda: client.compile_jobs.retrieve(job.id, wait=wait))


def _program(programs: Mapping[str, dspy.Module], item: WorkItem) -> dspy.Module:
    role = "teacher:0" if item.role == "teacher" else item.role
    return programs.get(role, programs["student"])


def _work_off(client: Stillhouse, job: CompileJob, run: ItemRun, bars: StepBars) -> None:
    """Run an item in a thread of its own: a notebook has an event loop in this one, and Ctrl-C is to be heard here.

    Whatever ends the wait, the item is over when this returns: its thread asks nothing with a client that is closed.
    """
    failed: list[BaseException] = []

    def work() -> None:
        try:
            run.run()
        except BaseException as fault:
            failed.append(fault)

    # A metric that asks an LM asks the one that `dspy.context` has set around the call.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name=f"item-{run.item.id}", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_LOOK_SECONDS)
            if thread.is_alive():
                with suppress(APIError):  # it only shows how far the job is
                    bars.update(client.compile_jobs.retrieve(job.id))
    except BaseException:
        run.stop()
        thread.join()
        raise
    if failed:
        raise failed[0]


def _ask(client: Stillhouse, job: CompileJob) -> None:
    """Cancel the job, or leave it; where nobody can be asked, it is left."""
    answer = ""
    if sys.stdin is not None and sys.stdin.isatty():
        answer = input(f"\nCancel {job.id}, or leave it for later? [c/L] ")
    if answer.strip().lower().startswith("c"):
        client.compile_jobs.cancel(job.id)
        print(f"{job.id} is being cancelled; its traces stay", file=sys.stderr)
    else:
        print(f"{job.id} is left as it is: the same call goes on with it", file=sys.stderr)
