"""Follows a job to its end: shows its progress, makes its rollouts where they are to be made here, and asks at Ctrl-C what to do."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import dspy

from stillhouse._client import Stillhouse
from stillhouse._exceptions import APIError
from stillhouse._progress import JobProgress
from stillhouse._wait import patiently
from stillhouse.dropin.asking import cancel_wanted
from stillhouse.dropin.originals import Originals
from stillhouse.dropin.runner import ItemRun
from stillhouse.types import CompileJob, WorkItem

POLL_SECONDS = 10.0
_LOOK_SECONDS = 2.0


def follow(
    client: Stillhouse, job: CompileJob, programs: Mapping[str, dspy.Module], metric: Any, examples: Sequence[Any] = ()
) -> CompileJob:
    """The job when it stands still. `programs`: that of `student`, and of each `teacher:N`; empty where the server runs them.
    `examples` are those of the job.

    A server that is away is waited for. Raises KeyboardInterrupt after Ctrl-C; the same call later goes on with the job unless it was
    cancelled. Whatever ends it, no item is worked on when this returns: its thread asks nothing with a client that is closed.
    """
    following = _Following(client, job, programs, metric, Originals(examples if programs else ()))
    try:
        return following.run()
    except KeyboardInterrupt:
        following.interrupted()
        raise
    finally:
        following.close()


class _Following:
    def __init__(self, client: Stillhouse, job: CompileJob, programs: Mapping[str, dspy.Module], metric: Any, originals: Originals) -> None:
        self._client, self._job, self._programs, self._metric, self._originals = client, job, programs, metric, originals
        self._progress = JobProgress()
        self._here: _Here | None = None

    def run(self) -> CompileJob:
        while not self._job.stands_still:
            item = self._claim() if self._programs else None
            if item is None:
                self._progress.update(self._job)  # not before the claim: the job would be shown as waiting for this very process
            else:
                self._work_off(item)
            self._look(None if item is not None else POLL_SECONDS)
        self._progress.update(self._job)
        return self._job

    def interrupted(self) -> None:
        """Cancel the job, or leave it. Nothing new is begun here meanwhile; what was begun ends."""
        if self._here is not None:
            self._here.run.stop()
        self._progress.close()
        if cancel_wanted(self._job.id):
            self._cancel()
        else:
            left = "waits: its rollouts are made here" if self._programs else "goes on, on the server"
            print(f"{self._job.id} {left}. The same call goes on with it; {_how_to_cancel(self._job)}", file=sys.stderr)
        if self._here is not None and not self._here.is_over(0):
            print("The calls that are under way end first; Ctrl-C leaves them", file=sys.stderr)

    def close(self) -> None:
        self._progress.close()
        if self._here is not None:
            self._here.end()

    def _cancel(self) -> None:
        try:
            self._client.compile_jobs.cancel(self._job.id)
        except APIError as fault:
            print(f"{self._job.id} was not cancelled: {fault}; {_how_to_cancel(self._job)}", file=sys.stderr)
        else:
            print(f"{self._job.id} is being cancelled; its traces stay", file=sys.stderr)

    def _claim(self) -> WorkItem | None:
        return patiently(lambda: self._client.work_items.claim(job=self._job.id, width=self._job.num_threads))

    def _look(self, wait: float | None) -> None:
        self._job = patiently(lambda: self._client.compile_jobs.retrieve(self._job.id, wait=wait))

    def _work_off(self, item: WorkItem) -> None:
        role = "teacher:0" if item.role == "teacher" else item.role
        program = self._programs.get(role, self._programs["student"])
        self._here = _Here(ItemRun(self._client, item, program, self._metric, self._originals))
        while not self._here.is_over(_LOOK_SECONDS):
            with suppress(APIError):  # it only shows how far the job is
                self._progress.update(self._client.compile_jobs.retrieve(self._job.id))
        self._here.raise_its_trouble()


class _Here:
    """An item that is worked off in a thread of its own: a notebook has an event loop in this one, and Ctrl-C is to be heard here."""

    def __init__(self, run: ItemRun) -> None:
        self.run = run
        self._trouble: list[BaseException] = []
        # A metric that asks an LM asks the one that `dspy.context` has set around the call.
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._work,), name=f"item-{run.item.id}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self.run.run()
        except BaseException as fault:
            self._trouble.append(fault)

    def is_over(self, seconds: float) -> bool:
        """Waits at most so long for it."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def raise_its_trouble(self) -> None:
        if self._trouble:
            raise self._trouble[0]

    def end(self) -> None:
        self.run.stop()
        self._thread.join()


def _how_to_cancel(job: CompileJob) -> str:
    return f'to cancel it: stillhouse.Stillhouse().compile_jobs.cancel("{job.id}")'
