"""A real Celery worker whose steps do nothing: `validate` ends the job, or waits to be stopped when the job's name is `slow`, or raises
what the job is named after.

Started as `celery -A tests.integration.core.trivial_worker worker`.
"""

import sys
import threading
from types import ModuleType

from distill.db import Session, unit_of_work
from distill.execute.ports import Ports
from distill.execute.work import Work
from distill.jobs import repository, service
from distill.jobs.claims import StepClosed
from distill.jobs.models import Job
from distill.jobs.status import Step


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__(threading.Lock())


RAISED: dict[str | None, BaseException] = {
    "MemoryError": MemoryError(),
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "Unpicklable": Unpicklable(),
}


def run(work: Work, ports: Ports) -> None:
    with unit_of_work() as s:
        name = repository.by_id(s, work.claim.job_id).name
    if name == "slow":
        work.wait(60)
    if name in RAISED:
        raise RAISED[name]
    work.publish(on_closed=succeed)


def succeed(s: Session, job: Job, closed: StepClosed) -> None:
    service.succeed(s, job)


# In the place of the real steps, which would need a runner and a trainer.
steps = ModuleType("distill.execute.steps")
steps.STEPS = {Step.VALIDATE: run}  # type: ignore[attr-defined]
sys.modules["distill.execute.steps"] = steps

from workers.celery_app import app  # noqa: E402

__all__ = ["app"]
