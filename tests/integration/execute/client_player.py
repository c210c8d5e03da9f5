"""A client that plays the worker over plain HTTP, with a program that only it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.testclient import TestClient

from distill.catalog import keys, projects
from distill.db import unit_of_work
from distill.jobs.models import Job
from tests.integration.execute.house import SUPPORT, rows

Json = dict[str, Any]

OWN: Json = {
    "predictors": SUPPORT["predictors"],
    "client": {"inputs": [{"name": "message", "schema": {"type": "string"}}], "source": "0" * 64},
}
METRIC: Json = {"type": "client", "name": "right_team", "source": "1" * 64}

TOML = """
[connections.teacher]
base_url = "{teacher}"
models = ["big"]
default_teacher = true

[connections.house]
base_url = "{student}"
models = ["tiny"]
default_student = true
supports = ["structured_outputs", "lora", "tools"]
trainer = "local"
"""


def token(project: str) -> str:
    with unit_of_work() as s:
        return keys.create(s, projects.ensure(s, project).id, "test", ("jobs:read", "jobs:write", "models:use"))[1]


def create(api: TestClient, n: int = 12, **changes: Any) -> str:
    body = {"program": OWN, "program_name": "desk", "trainset": rows(n), "valset": rows(3), "metric": METRIC, **changes}
    made = api.post("/v1/compile_jobs", json=body)
    assert made.status_code == 201, made.text
    job_id: str = made.json()["id"]
    return job_id


def answers(example: Json, role: str) -> Json:
    """What the client's own program makes of a row, with a branch: what is about an account is not answered."""
    said = "account" if role == "baseline" else example["inputs"]["message"].split()[-1]
    usage = {"prompt_tokens": 10, "completion_tokens": 2}
    calls = [{"predictor": "classify", "inputs": example["inputs"], "outputs": {"category": said}, "usage": usage}]
    if said != "account":
        inputs = {**example["inputs"], "category": said}
        calls.append({"predictor": "reply", "inputs": inputs, "outputs": {"answer": f"Team {said} will help."}, "usage": usage})
    return {"status": "ok", "outputs": {"category": said}, "calls": calls}


@dataclass
class Player:
    """A client over plain HTTP. `run` makes the trace of one example under a role."""

    api: TestClient
    run: Callable[[Json, str], Json] = answers
    name: str = "laptop"
    claims: list[Json] = field(default_factory=list)

    def claim(self, job_id: str | None = None) -> Json | None:
        reply = self.api.post("/v1/work_items/claim", json={"client": self.name, **({"job": job_id} if job_id else {})})
        assert reply.status_code == 200, reply.text
        item: Json | None = reply.json()["item"]
        if item is not None:
            self.claims.append(item)
        return item

    def send(self, item: Json, examples: list[Json]) -> None:
        """The traces and scores of some examples that have none."""
        traces, scores = [], []
        for example in examples:
            place = {"role": item["role"], "row": example["row"], "rollout": 0}
            rollout = example["rollouts"][0]
            made = rollout["trace"] or self.run(example, item["role"])
            if rollout["trace"] is None:
                lm = next(iter(item["programs"][0]["lms"].values()))["model"]
                calls = [{**call, "lm": lm} for call in made["calls"]]
                used = {"calls": len(calls), "prompt_tokens": 10 * len(calls), "completion_tokens": 2 * len(calls)}
                traces.append({**place, **made, "calls": calls, "usage": {**used, "lms": {lm: used}}})
            if rollout["score"] is None and made["status"] == "ok":
                scores.append({**place, "value": float(made["outputs"]["category"] == example["labels"]["category"])})
        for path, facts in (("traces", traces), ("scores", scores)):
            if facts:
                reply = self.api.post(f"/v1/compile_jobs/{item['job']}/{path}", json={path: facts})
                assert reply.status_code == 200, reply.text

    def publish(self, item: Json, **more: Any) -> Any:
        return self.api.post("/v1/work_items/publish", json={"id": item["id"], "fence": item["fence"], **more})

    def play(self, job: Job) -> bool:
        """One item, if there is one; for `House.run`, as something that never holds."""
        if (item := self.claim(job.id)) is not None:
            self.send(item, item["examples"])
            assert self.publish(item).json().get("status") == "succeeded"
        return False
