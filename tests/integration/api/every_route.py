"""Every operation of the API description, for tests that ask them all."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.testclient import TestClient

from app.main import build_routes
from distill.catalog import projects, webhooks
from distill.db import Page, unit_of_work
from tests.integration.api.bundled import BUNDLE
from tests.integration.api.conftest import ROWS
from tests.integration.api.finished import MODEL, finish, load

NOBODYS: Mapping[str, str] = defaultdict(lambda: "x-1")
"""Ids of nothing, for paths whose objects do not matter."""


def operations() -> Iterator[tuple[str, str, str]]:
    """Method, path with its parameters in braces, and id of each."""
    for path, verbs in build_routes().openapi()["paths"].items():
        yield from ((verb.upper(), path, operation["operationId"]) for verb, operation in verbs.items())


def objects_of(api: TestClient, admin: Mapping[str, str]) -> dict[str, str]:
    """What fills the parameters of paths: an object of every noun, all of the project `support`."""
    finished = finish(api)
    load(finished)
    job = api.get(f"/v1/compile_jobs/{finished.job_id}").json()
    with unit_of_work() as s:
        endpoint = webhooks.add(s, projects.get(s, "support").id, "https://hooks.example.com/x", ["alias.moved"], None)[0]
    moved = api.put("/v1/aliases/router@prod", json={"artifact": finished.artifact_id})
    assert moved.status_code == 200, moved.text
    dataset = api.post("/v1/datasets", json={"rows": ROWS, "name": "train"}).json()
    file = api.post("/v1/files", files={"file": ("a.jsonl", b'{"messages": []}\n')}, data={"purpose": "fine-tune"}).json()
    own = {"name": "ours", "base_url": "https://api.example.com/v1", "api_key": "sk-ours"}
    connection = api.post("/v1/connections", json=own, headers=dict(admin)).json()
    metric = api.post("/v1/metrics", json={"spec": {"type": "exact_match"}}).json()
    bundle = api.post("/v1/bundles", json=BUNDLE).json()
    with unit_of_work() as s:
        delivery = webhooks.deliveries(s, endpoint.project_id, endpoint.id, Page()).data[0]
    return {
        "endpoint_id": endpoint.id,
        "delivery_id": delivery.id,
        "/v1/compile_jobs/{job_id}": finished.job_id,
        "/v1/fine_tuning/jobs/{job_id}": job["fine_tuning_jobs"][0]["id"],
        "fine_tuning_job": job["fine_tuning_jobs"][0]["id"],
        "program_id": job["program"],
        "dataset_id": dataset["id"],
        "artifact_id": finished.artifact_id,
        "path": "manifest.json",
        "name": "router@prod",
        "model_id": MODEL,
        "file_id": file["id"],
        "connection_id": connection["id"],
        "metric_id": metric["id"],
        "bundle_id": bundle["id"],
        "key_id": api.get("/v1/me").json()["key_id"],
        "project": "support",
    }


BODIES: dict[str, Any] = {
    "update_compile_job": {"name": "mine"},
    "refilter_compile_job": {},
    "render_program": {"inputs": {"message": "a"}},
    "call_artifact": {"inputs": {"message": "a"}},
    "update_connection": {"models": ["big-1"]},
    "try_metric": {"examples": ROWS[:1], "predictions": [{"category": "billing"}]},
    "put_alias": {"artifact": "router@prod"},
    "send_traces": {"traces": [{"role": "teacher:0", "row": 1, "status": "ok", "outputs": {"category": "billing"}}]},
    "send_scores": {"scores": [{"role": "teacher:0", "row": 1, "value": 1.0}]},
}


NOT_YET = {"training_file_content"}
"""What the job of the fixture, which has not run, does not have: to its owner it is not found either."""


OPERATED = {"update_project"}
"""Refused to all but operators before anything is looked up."""


def filled(template: str, values: Mapping[str, str]) -> str:
    """The path with the ids of `values`; one that a longer prefix names goes first."""

    def one(match: re.Match[str]) -> str:
        return values.get(template[: match.end()]) or values[match[1]]

    return re.sub(r"\{(\w+)\}", one, template)
