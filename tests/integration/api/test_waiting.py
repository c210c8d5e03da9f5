"""Jobs that wait for the trainer: what their readers see."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from distill.db import Session, unit_of_work
from distill.jobs import claims, service, steps, workers
from distill.jobs.claims import Claim, StepClosed, WorkerInfo
from distill.jobs.models import Job
from distill.jobs.status import Step
from tests.integration.api.conftest import Tokens, job_body
from tests.integration.core.world import connection

WORKER = WorkerInfo("tester", frozenset({"runtime:default", "trainer:local"}))


@pytest.fixture(autouse=True)
def alive(tokens: Tokens) -> None:
    """A worker for all queues."""
    with unit_of_work() as s:
        workers.seen(s, WORKER.name, ["light", "rollouts", "train"], WORKER.capabilities)


def taken(queue: str) -> Claim:
    with unit_of_work() as s:
        found = claims.claim(s, queue, WORKER)
    assert found is not None
    return found


def at_train(api: TestClient, token: str, **changes: Any) -> str:
    """The id of a job that has one training to do."""
    job_id: str = api.post("/v1/compile_jobs", json=job_body(**changes), headers={"Authorization": f"Bearer {token}"}).json()["id"]

    def opening(s: Session, job: Job, _: StepClosed) -> None:
        new = service.NewFineTuneJob("k", "", ("student",), ("self",), connection("house").id, "tiny", "local", {})
        (key,) = service.create_fine_tune_jobs(s, job, [new])
        steps.open_step(s, job, Step.TRAIN, [steps.NewItem("train", fine_tune_job_id=key.id, needs=("trainer:local",))])

    held = taken("rollouts")
    with unit_of_work() as s:
        claims.publish(s, held, on_closed=opening)
    return job_id


def read(api: TestClient, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = api.get(f"/v1/compile_jobs/{job_id}").json()
    return job


def seen(api: TestClient, job_id: str) -> tuple[str, bool, str, str]:
    """Status of the job, whether it waits, status of its training as a step and as a fine-tune job."""
    job = read(api, job_id)
    (child,) = api.get(f"/v1/compile_jobs/{job_id}/fine_tuning_jobs").json()["data"]
    assert child["status"] == job["fine_tuning_jobs"][0]["status"]
    return job["status"], job["waiting"], next(step["status"] for step in job["steps"] if step["name"] == "train"), child["status"]


def test_what_waits_is_not_said_to_run(api: TestClient, tokens: Tokens) -> None:
    holder = at_train(api, tokens.all, name="first")
    waits = at_train(api, tokens.all)
    held = taken("train")
    assert seen(api, holder) == ("running", False, "running", "running")
    assert seen(api, waits) == ("running", True, "queued", "queued")
    queue = read(api, waits)["queue"]
    assert (queue["position"], queue["resource"], queue["reason"]) == (1, "trainer", "waits for a trainer: next in turn")
    (held_by,) = queue["held_by"]
    assert (held_by["job"], held_by["name"], held_by["owner"], held_by["project"]) == (holder, "first", "test", "support")
    with unit_of_work() as s:
        claims.release(s, held)
    assert seen(api, holder) == ("running", True, "queued", "queued")


def test_of_another_projects_holder_nothing_is_told_but_the_time(api: TestClient, tokens: Tokens) -> None:
    at_train(api, tokens.other, name="secret")
    waits = at_train(api, tokens.all)
    taken("train")
    (held_by,) = read(api, waits)["queue"]["held_by"]
    assert {name for name, value in held_by.items() if value is not None} == {"since"}
