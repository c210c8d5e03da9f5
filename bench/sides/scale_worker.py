"""A worker that takes one job from validate to its training files, in a process of its own, with the memory and the seconds that took."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from bench.fake_lm import ANSWER
from bench.memory import Peak
from bench.side import Json, serve
from bench.task import program
from distill.catalog import connections, datasets, programs, projects
from distill.db import Session, unit_of_work
from distill.execute.ports import Ports, open_ports
from distill.execute.run import Shift, run_queue
from distill.execute.steps import STEPS
from distill.jobs import repository, service
from distill.jobs.claims import WorkerInfo
from distill.jobs.status import JobStatus
from distill.settings import get_settings
from distill.spec import read_spec
from stillhouse_programs.spec import parse_spec

QUEUES = ("rollouts", "light")
WORKER = WorkerInfo("bench", frozenset({"runtime:default", "trainer:local"}))


def answer(request: Json) -> Json:
    """`run` with `n` examples and `in_flight` LM calls at a time. `train` is where it stops: nothing is trained."""
    ports = open_ports(get_settings())
    try:
        with Peak(os.getpid()) as peak:
            began = time.monotonic()
            job_id = _submit(ports, request)
            steps: dict[str, float] = {}
            while _goes_on(job_id, steps, peak):
                _work(ports)
            return {"seconds": time.monotonic() - began, **_outcome(job_id), "peak_mb": peak.megabytes, "peak_mb_upto": steps}
    finally:
        ports.close()


def _submit(ports: Ports, request: Json) -> str:
    with unit_of_work() as s:
        connections.sync(s, get_settings())
        project = projects.ensure(s, "bench")
        stored = programs.ensure(s, project.id, None, parse_spec(program()))
        trainset = datasets.create(s, ports.store, project.id, _rows(request["n"]))
        raw = {
            "program_id": stored.id,
            "trainset": trainset.id,
            "metric": {"type": "exact_match"},
            "holdout": {"n": 0},
            "num_threads": request["in_flight"],
        }
        return service.submit(s, project.id, None, read_spec(raw)).id


def _rows(n: int) -> Iterator[Mapping[str, Any]]:
    for number in range(n):
        yield {"question": f"In which river valley of the northern province does station {number:07d} stand ?", "category": ANSWER}


def _goes_on(job_id: str, steps: dict[str, float], peak: Peak) -> bool:
    """False once training is open. Notes the peak up to the step that is worked on. Raises RuntimeError when the job has ended."""
    with unit_of_work() as s:
        job = repository.by_id(s, job_id)
    if JobStatus(job.status).is_terminal:
        raise RuntimeError(f"the job {job.status}: {job.error}")
    if job.step == "train":
        return False
    steps[job.step] = peak.megabytes
    return True


def _work(ports: Ports) -> None:
    """One turn of each queue: a few slices, then back to look at the peak."""
    if not sum(run_queue(queue, WORKER, ports, Shift(), STEPS, seconds=2.0) for queue in QUEUES):
        raise RuntimeError("nothing is left to do, and the job is not where it should be")


def _outcome(job_id: str) -> Json:
    """Seconds of each step, and what came of the rows."""
    with unit_of_work() as s:
        views = {view.name: view for view in repository.steps(s, job_id)}
        rows = _training_rows(s, job_id)
    took = {
        name: (view.finished_at - view.started_at).total_seconds() for name, view in views.items() if view.finished_at and view.started_at
    }
    return {"steps": took, "rows": rows}


def _training_rows(s: Session, job_id: str) -> int:
    return sum((key.rows or 0) + (key.validation_rows or 0) for key in repository.fine_tune_jobs(s, job_id))


if __name__ == "__main__":
    serve(answer)
