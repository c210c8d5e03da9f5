"""A project with connections, a program and a dataset, and short ways to make jobs and claims in it."""

import csv
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import text

from distill.catalog import connections, datasets, programs, projects
from distill.catalog.models import Connection
from distill.db import Session, unit_of_work
from distill.jobs import claims, pausing, repository, service, steps
from distill.jobs.claims import Claim, StepClosed, WorkerInfo
from distill.jobs.models import Job, WorkItem
from distill.jobs.status import Step
from distill.settings import ConnectionSettings, Settings
from distill.spec import read_spec
from distill.storage import BlobStore

T = TypeVar("T")
WORKER = WorkerInfo("tester", frozenset({"runtime:default", "trainer:local"}))
PROGRAM: dict[str, Any] = {
    "spec_version": 1,
    "predictors": [
        {
            "name": "self",
            "lm": "student",
            "signature": {
                "instructions": "Route a customer message to one team.",
                "fields": [
                    {"name": "message", "role": "input"},
                    {"name": "category", "role": "output", "schema": {"type": "string", "enum": ["billing", "technical"]}},
                ],
            },
        }
    ],
}
ROWS = [{"message": f"message {number}", "category": "billing"} for number in range(30)]


def settings(**changes: Any) -> Settings:
    """The embedded host as default student, a plain LM host as default teacher."""
    teacher = ConnectionSettings(base_url="http://teacher.test/v1", models=["big"], default_teacher=True)
    return Settings(connections={"teachers": teacher}, lmhost_url="http://house.test/v1").model_copy(update=changes)


@dataclass
class World:
    store: BlobStore
    project_id: str = ""
    program_id: str = ""
    dataset_id: str = ""
    others: dict[str, str] = field(default_factory=dict)

    def build(self) -> "World":
        with unit_of_work() as s:
            connections.sync(s, settings())
            self.project_id = projects.ensure(s, "support").id
            self.program_id = self.program(s, PROGRAM)
            self.dataset_id = datasets.create(s, self.store, self.project_id, ROWS).id
        return self

    def program(self, s: Session, spec: Mapping[str, Any]) -> str:
        return programs.ensure(s, self.project_id, None, programs.read_program(spec)).id

    def dataset(self, rows: Sequence[Mapping[str, Any]]) -> str:
        with unit_of_work() as s:
            return datasets.create(s, self.store, self.project_id, rows).id

    def table(self, text: str) -> str:
        """The id of a dataset from a CSV."""
        with unit_of_work() as s:
            rows = csv.DictReader(io.StringIO(text, newline=""))
            return datasets.create(s, self.store, self.project_id, rows, source_format="csv").id

    def submit(self, project_id: str | None = None, **changes: Any) -> str:
        """The id of a new job. Changes are those of the request body."""
        raw = {"program_id": self.program_id, "trainset": self.dataset_id, **changes}
        with unit_of_work() as s:
            return service.submit(s, project_id or self.project_id, None, read_spec(raw)).id

    def other_project(self, name: str, share: float = 1.0) -> tuple[str, dict[str, Any]]:
        """Another project's id, with the words that make `submit` use its own program and rows."""
        with unit_of_work() as s:
            project = projects.create(s, name, share)
            program = programs.ensure(s, project.id, None, programs.read_program(PROGRAM))
            dataset = datasets.create(s, self.store, project.id, ROWS)
            return project.id, {"program_id": program.id, "trainset": dataset.id}

    def at_bootstrap(self, examples: int = 30, *, items: int = 1, project_id: str | None = None, **changes: Any) -> str:
        """A job whose validate is done and whose bootstrap is open, in `items` ranges of `examples` each."""
        job_id = self.submit(project_id, **changes)
        opened = [steps.NewItem(f"teacher:{number}", {"start": 0, "stop": examples}, examples) for number in range(items)]
        with unit_of_work() as s:
            s.execute(text("UPDATE work_items SET run_after = clock_timestamp() + interval '1 hour' WHERE job_id <> :id"), {"id": job_id})
        validate = claim("rollouts")
        assert validate is not None
        assert validate.job_id == job_id
        publish(validate, on_closed=lambda s, job, _: steps.open_step(s, job, Step.BOOTSTRAP, opened))
        with unit_of_work() as s:
            s.execute(text("UPDATE work_items SET run_after = clock_timestamp() WHERE status = 'queued'"))
        return job_id


def claim(queue: str = "rollouts", worker: WorkerInfo = WORKER) -> Claim | None:
    with unit_of_work() as s:
        return claims.claim(s, queue, worker)


def taken(queue: str = "rollouts", worker: WorkerInfo = WORKER) -> Claim:
    """A claim that is there to be had."""
    found = claim(queue, worker)
    assert found is not None
    return found


def publish(held: Claim, **words: Any) -> StepClosed | None:
    with unit_of_work() as s:
        return claims.publish(s, held, **words)


def cancel(world: World, job_id: str) -> Job:
    """As a caller asks for it."""
    with unit_of_work() as s:
        return service.cancel(s, world.project_id, job_id)


def pause(world: World, job_id: str) -> Job:
    """As a caller asks for it."""
    with unit_of_work() as s:
        return pausing.pause(s, world.project_id, job_id)


def job(job_id: str) -> Job:
    with unit_of_work() as s:
        return repository.by_id(s, job_id)


def items(job_id: str, step: Step | None = None) -> list[WorkItem]:
    with unit_of_work() as s:
        return repository.items(s, job_id, step)


def connection(name: str) -> Connection:
    with unit_of_work() as s:
        found = connections.find(s, name)
    assert found is not None
    return found


def execute(statement: str, **values: Any) -> None:
    with unit_of_work() as s:
        s.execute(text(statement), values)


def waits_for_a_lock() -> bool:
    """Whether any session of the database does."""
    with unit_of_work() as s:
        query = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
        return bool(s.scalar(text(query)))


def at_once(number: int, act: Callable[[int], T]) -> list[T]:
    """Run `act(0)` … `act(number - 1)` in threads that start together."""
    barrier = threading.Barrier(number)

    def one(index: int) -> T:
        barrier.wait()
        return act(index)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))
