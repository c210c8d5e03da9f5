"""A stack of real servers, API and dispatcher with a worker that does nothing, and plain HTTP clients for it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import psycopg
from sqlalchemy import make_url

from bench.session import Session
from bench.side import ROOT
from bench.task import program, questions
from stack.parts import Part
from stack.plan import Layout, standard_parts
from stack.supervisor import Stack

Json = dict[str, Any]
T = TypeVar("T")
_NOWHERE = "http://127.0.0.1:9/v1"
# No LM is ever asked; a job must name some all the same.
CONNECTIONS = {
    "house": {"base_url": _NOWHERE, "models": ["tiny"], "default_student": True, "supports": ["lora"], "trainer": "local"},
    "teachers": {"base_url": _NOWHERE, "models": ["big"], "default_teacher": True},
}
ROWS = [{"question": text, "category": "place"} for text in questions(20)]


@contextmanager
def noop_stack(session: Session) -> Iterator[Stack]:
    """Durable servers, the real API and dispatcher, and `bench.noop_worker` on the queue `rollouts`."""
    # Items that only a bench claims are no news to the worker: without this it would be reminded of them all the time.
    environment = {"STILLHOUSE_CONNECTIONS": json.dumps(CONNECTIONS), "STILLHOUSE_TIMERS__RESEND_SECONDS": "3600"}
    with Stack(session.folder("stack"), lm_host=False, planner=_parts, environment=environment) as stack:
        yield stack


def _parts(layout: Layout) -> list[Part]:
    return [_with_noop(part) if part.name == "worker-rollouts" else part for part in standard_parts(layout)]


def _with_noop(part: Part) -> Part:
    command = tuple("bench.noop_worker" if word == "workers.celery_app" else word for word in part.command)
    # The bench is not installed; every part trusts only what is, or is named here.
    return replace(part, command=command, environment={**part.environment, "PYTHONPATH": str(ROOT)})


class Caller:
    """One HTTP/1.1 connection that is kept open. Not thread-safe."""

    def __init__(self, stack: Stack) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
        self._headers = {"authorization": f"Bearer {stack.api_key}", "content-type": "application/json"}

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """The reply's JSON. Raises RuntimeError for an error reply."""
        self._connection.request(method, path, None if body is None else json.dumps(body), self._headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {content[:300]!r}")
        found: Json = json.loads(content)
        return found

    def close(self) -> None:
        self._connection.close()


@contextmanager
def callers(stack: Stack, number: int) -> Iterator[list[Caller]]:
    made = [Caller(stack) for _ in range(number)]
    try:
        yield made
    finally:
        for caller in made:
            caller.close()


def side_by_side(workers: Sequence[Caller], work: Sequence[T], act: Callable[[Caller, T], float]) -> list[float]:
    """Spread the work over the callers, each in a thread of its own; what `act` returned, in no order."""
    shares = [work[place :: len(workers)] for place in range(len(workers))]
    with ThreadPoolExecutor(len(workers)) as pool:
        parts = pool.map(lambda pair: [act(pair[0], item) for item in pair[1]], zip(workers, shares, strict=True))
        return [each for part in parts for each in part]


def job_body(caller: Caller) -> Json:
    """The body of a job whose program and rows are stored already: what a POST then costs is the job."""
    made = caller.call("POST", "/v1/compile_jobs", {"program": program(), "trainset": ROWS, "metric": "exact_match", "auto_start": False})
    return {"program": made["program"], "trainset": made["trainset"], "metric": "exact_match"}


def database_address(stack: Stack) -> str:
    """For psycopg."""
    return make_url(stack.layout.database_url).set(drivername="postgresql").render_as_string(hide_password=False)


def claimed_at(stack: Stack, job_ids: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """Of each job, by the database's clock in Unix seconds: when it was stored, first claimed, and finished."""
    query = """
        SELECT jobs.id, extract(epoch FROM jobs.created_at), extract(epoch FROM job_steps.started_at), extract(epoch FROM jobs.finished_at)
          FROM jobs JOIN job_steps ON job_steps.job_id = jobs.id AND job_steps.name = 'validate'
         WHERE jobs.id = ANY(%s)
    """
    with psycopg.connect(database_address(stack)) as connection:
        rows = connection.execute(query, [list(job_ids)]).fetchall()
    return {row[0]: (float(row[1]), float(row[2]), float(row[3])) for row in rows}
