"""A real Celery worker whose `validate` does nothing: a job called `items:N` gets N work items that only a bench claims, others succeed.

Started as `celery -A bench.noop_worker worker`, with the server's own Celery settings.
"""

from __future__ import annotations

import sys
from types import ModuleType

from bench.noop_names import CAPABILITY, PREFIX
from distill.db import Session
from distill.execute.ports import Ports
from distill.execute.work import Work
from distill.jobs import service, steps
from distill.jobs.claims import StepClosed
from distill.jobs.models import Job
from distill.jobs.status import Step


def run(work: Work, ports: Ports) -> None:
    work.publish(on_closed=_go_on)


def _go_on(s: Session, job: Job, closed: StepClosed) -> None:
    name = job.name or ""
    if not name.startswith(PREFIX):
        service.succeed(s, job)
        return
    items = [steps.NewItem("noop", needs=(CAPABILITY,)) for _ in range(int(name.removeprefix(PREFIX)))]
    steps.open_step(s, job, Step.BOOTSTRAP, items)


# In the place of the real steps, which would start a runner.
_steps = ModuleType("distill.execute.steps")
vars(_steps)["STEPS"] = {Step.VALIDATE: run}
sys.modules["distill.execute.steps"] = _steps

from workers.celery_app import app  # noqa: E402 - it must find the steps above

__all__ = ["app"]
