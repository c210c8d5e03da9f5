"""A real Celery worker whose items write down that they were run: `validate` opens as many as the job's name says, and they end the job.

Started as `celery -A tests.integration.core.counting_worker worker`. The table `executions` is the test's; see `test_many_workers`.
"""

import os
import sys
from types import ModuleType

from sqlalchemy import text

from distill.db import Session, unit_of_work
from distill.execute.ports import Ports
from distill.execute.work import Work
from distill.jobs import service
from distill.jobs.claims import StepClosed
from distill.jobs.models import Job
from distill.jobs.status import Step
from distill.jobs.steps import NewItem, open_step

_RAN = text("INSERT INTO executions (item_id, job_id, process) VALUES (:item_id, :job_id, :process)")


def validate(work: Work, ports: Ports) -> None:
    work.publish(on_closed=_open)


def _open(s: Session, job: Job, closed: StepClosed) -> None:
    open_step(s, job, Step.BOOTSTRAP, [NewItem("counted") for _ in range(int(job.name or ""))])


def bootstrap(work: Work, ports: Ports) -> None:
    """What it writes stays, whatever becomes of the item."""
    with unit_of_work() as s:
        s.execute(_RAN, {"item_id": work.claim.item_id, "job_id": work.claim.job_id, "process": os.getpid()})
    work.publish(on_closed=lambda s, job, _: service.succeed(s, job))


# In the place of the real steps, which would need a runner and a trainer.
steps = ModuleType("distill.execute.steps")
vars(steps)["STEPS"] = {Step.VALIDATE: validate, Step.BOOTSTRAP: bootstrap}
sys.modules["distill.execute.steps"] = steps

from workers.celery_app import app  # noqa: E402 - it must find the steps above

__all__ = ["app"]
