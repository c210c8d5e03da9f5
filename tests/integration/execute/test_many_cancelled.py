"""Two thousand queued jobs, all cancelled at once: each ends, none is worked on or paid for, and another project's job goes on."""

import time

import pytest
from sqlalchemy import text

from distill.catalog import projects
from distill.db import unit_of_work
from distill.execute.run import run_queue
from distill.execute.steps import STEPS
from distill.jobs import cancelling, service
from distill.jobs.repository import JobFilter
from distill.jobs.status import JobKind
from distill.spec import read_spec
from tests.integration.execute.house import QUEUES, House, rows
from tests.support.statements import counted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FEW, MANY, AT_ONCE = 500, 2000, 500


def queue(house: House, n: int) -> None:
    """So many jobs on the same rows."""
    first = house.job(house.submit(rows(4)))
    metric = {"type": "exact_match", "fields": ["category"]}
    spec = read_spec({"program_id": first.program_id, "trainset": first.trainset_id, "metric": metric})
    with unit_of_work() as s:
        for _ in range(n - 1):
            service.submit(s, house.project_id, None, spec)


def cancel(house: House) -> tuple[int, float, float]:
    """How many were cancelled, and what each took of seconds and statements."""
    since, cancelled, has_more = time.monotonic(), 0, True
    with counted() as sent:
        while has_more:
            with unit_of_work() as s:
                found, has_more = cancelling.cancel_all(s, house.project_id, JobFilter(), [JobKind.COMPILE], AT_ONCE)
                cancelled += len(found)
    return cancelled, (time.monotonic() - since) / cancelled, len(sent) / cancelled


def test_all_end_and_nothing_of_them_is_paid(house: House) -> None:
    queue(house, FEW)
    few, few_seconds, few_statements = cancel(house)
    queue(house, MANY)
    with unit_of_work() as s:
        other = projects.ensure(s, "another").id
    own = house.project_id
    house.project_id = other
    waiting = house.submit(rows(6))
    house.project_id = own
    many, many_seconds, many_statements = cancel(house)
    milliseconds = f"{1000 * few_seconds:.1f} and {1000 * many_seconds:.1f} ms"
    print(f"of {FEW} and of {MANY} jobs a cancel took {milliseconds}, {many_statements:.1f} statements")
    assert (few, many) == (FEW, MANY)
    assert many_statements <= few_statements + 0.1
    assert house.run(waiting).status == "succeeded"
    with unit_of_work() as s:
        ended = s.execute(text("SELECT status, count(*) FROM jobs GROUP BY 1 ORDER BY 1")).all()
        open_ = s.execute(text("SELECT count(*) FROM work_items WHERE status NOT IN ('cancelled', 'succeeded')")).scalar_one()
        begun = s.execute(text("SELECT count(*) FROM work_items WHERE attempts > 0 AND job_id <> :job"), {"job": waiting}).scalar_one()
    assert ended == [("cancelled", FEW + MANY), ("succeeded", 1)]
    assert (open_, begun) == (0, 0)
    calls = len(house.teacher.calls) + len(house.student.calls)
    while sum(run_queue(queue, house.worker, house.ports, house.shift, STEPS, 60) for queue in QUEUES):
        pass
    assert len(house.teacher.calls) + len(house.student.calls) == calls, "something was left to do"
