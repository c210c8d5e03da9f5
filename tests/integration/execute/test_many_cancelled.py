"""Two thousand queued jobs, all cancelled by an operator: each ends, with its steps, and tells so once; none is worked on or paid for, and
another project's job goes on."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from distill.catalog import keys, projects
from distill.db import unit_of_work
from distill.execute.run import run_queue
from distill.execute.steps import STEPS
from distill.jobs import service
from distill.spec import read_spec
from tests.integration.execute.client_player import TOML
from tests.integration.execute.house import QUEUES, House, configured, rows
from tests.support.scripted_lm import ScriptedLM
from tests.support.statements import counted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FEW, MANY = 500, 2000


def queue(house: House, n: int) -> None:
    """So many jobs on the same rows."""
    first = house.job(house.submit(rows(4)))
    metric = {"type": "exact_match", "fields": ["category"]}
    spec = read_spec({"program_id": first.program_id, "trainset": first.trainset_id, "metric": metric})
    with unit_of_work() as s:
        for _ in range(n - 1):
            service.submit(s, house.project_id, None, spec)


@pytest.fixture
def house(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    with configured(tmp_path, TOML, teacher, student) as opened:
        yield opened


@pytest.fixture
def operator(api: TestClient) -> TestClient:
    """The API with an operator's key, of a project without jobs."""
    with unit_of_work() as s:
        api.headers["Authorization"] = f"Bearer {keys.create(s, projects.ensure(s, projects.OPERATORS).id, 'on call', ['operator'])[1]}"
    return api


def cancel(operator: TestClient, house: House) -> tuple[int, float, float]:
    """How many jobs of the project were cancelled, and what each took of seconds and statements."""
    since, cancelled, has_more = time.monotonic(), 0, True
    with counted("api") as sent:
        while has_more:
            reply = operator.post("/v1/compile_jobs/cancel", json={"project": house.project})
            assert reply.status_code == 200, reply.text
            cancelled, has_more = cancelled + len(reply.json()["data"]), reply.json()["has_more"]
    return cancelled, (time.monotonic() - since) / cancelled, len(sent) / cancelled


def test_all_end_and_nothing_of_them_is_paid(house: House, operator: TestClient) -> None:
    queue(house, FEW)
    few, few_seconds, few_statements = cancel(operator, house)
    queue(house, MANY)
    with unit_of_work() as s:
        other = projects.ensure(s, "another").id
    own = house.project_id
    house.project_id = other
    waiting = house.submit(rows(6))
    house.project_id = own
    many, many_seconds, many_statements = cancel(operator, house)
    milliseconds = f"{1000 * few_seconds:.1f} and {1000 * many_seconds:.1f} ms"
    print(f"of {FEW} and of {MANY} jobs a cancel took {milliseconds}, {many_statements:.1f} statements")
    assert (few, many) == (FEW, MANY)
    assert many_statements <= few_statements + 0.1
    assert house.run(waiting).status == "succeeded"
    with unit_of_work() as s:
        ended = s.execute(text("SELECT status, count(*) FROM jobs GROUP BY 1 ORDER BY 1")).all()
        open_ = s.execute(text("SELECT count(*) FROM work_items WHERE status NOT IN ('cancelled', 'succeeded')")).scalar_one()
        steps = s.execute(text("SELECT status, count(*) FROM job_steps WHERE job_id <> :job GROUP BY 1"), {"job": waiting}).all()
        told = s.execute(text("SELECT job_id, count(*) FROM job_events WHERE type = 'done' GROUP BY 1")).all()
        begun = s.execute(text("SELECT count(*) FROM work_items WHERE attempts > 0 AND job_id <> :job"), {"job": waiting}).scalar_one()
    assert ended == [("cancelled", FEW + MANY), ("succeeded", 1)]
    assert (open_, begun) == (0, 0)
    assert steps == [("cancelled", FEW + MANY)]
    assert [count for _, count in told] == [1] * (FEW + MANY + 1), "each job tells once that it is over"
    calls = len(house.teacher.calls) + len(house.student.calls)
    while sum(run_queue(queue, house.worker, house.ports, house.shift, STEPS, 60) for queue in QUEUES):
        pass
    assert len(house.teacher.calls) + len(house.student.calls) == calls, "something was left to do"
