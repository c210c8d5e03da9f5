"""A job that is tried out: made as `create` makes it, in a transaction that is taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from app.compose import Composer, naming_no_path
from app.references import Code
from app.schemas.compile_jobs import JobCreate
from app.services import Services
from distill.catalog.keys import Caller
from distill.db import Session, unit_of_work
from distill.jobs import service
from distill.jobs.models import Job
from distill.storage import BlobStore

T = TypeVar("T")


def rehearse(services: Services, store: BlobStore, caller: Caller, body: JobCreate, code: Code, look: Callable[[Session, Job], T]) -> T:
    """What `look` makes of the job before it is gone again; no row of the result may need a session.

    Rows that were sent inline are put into `store`. Raises as creating does.
    """
    with unit_of_work("api") as session:
        with naming_no_path():
            spec = Composer(session, services, caller, code, store).spec(body)
            job = service.submit(session, caller.project_id, caller, spec, priority=body.priority)
        found = look(session, job)
        session.expunge_all()
        session.rollback()
    return found
