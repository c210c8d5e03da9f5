"""Projects: operators make them, and nobody sees another's objects, whatever the route."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.main import build_routes
from distill.catalog import keys, projects, webhooks
from distill.db import Page, unit_of_work
from tests.integration.api.conftest import ROWS, Tokens
from tests.integration.api.finished import MODEL, finish, load


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def admin_of(project: str) -> str:
    with unit_of_work() as s:
        return keys.create(s, projects.ensure(s, project).id, "test", ["admin"])[1]


@pytest.fixture
def operator(bare: TestClient) -> TestClient:
    bare.headers.update(bearer(admin_of("default")))
    return bare


class TestOperators:
    def test_they_make_a_project_and_its_first_key(self, operator: TestClient) -> None:
        project = operator.post("/v1/projects", json={"name": "vision", "metadata": {"team": "v"}}).json()
        assert (project["name"], project["metadata"]) == ("vision", {"team": "v"})
        key = operator.post("/v1/api_keys", json={"label": "first", "scopes": ["admin"], "project": "vision"}).json()
        me = operator.get("/v1/me", headers=bearer(key["token"])).json()
        assert (me["project_id"], me["key_id"]) == (project["id"], key["id"])
        assert project["id"] in {one["id"] for one in operator.get("/v1/projects").json()["data"]}

    def test_a_name_is_taken_once(self, operator: TestClient) -> None:
        assert operator.post("/v1/projects", json={"name": "vision"}, headers={"Idempotency-Key": "a"}).status_code == 201
        again = operator.post("/v1/projects", json={"name": "vision"}, headers={"Idempotency-Key": "a"})
        assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
        taken = operator.post("/v1/projects", json={"name": "vision"})
        assert (taken.status_code, taken.json()["error"]["code"]) == (409, "name_taken")

    def test_a_key_of_no_project_is_refused(self, operator: TestClient) -> None:
        reply = operator.post("/v1/api_keys", json={"label": "first", "project": "none"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "project_not_found")


class TestOthers:
    def test_an_admin_of_another_project_makes_none(self, bare: TestClient, tokens: Tokens) -> None:
        reply = bare.post("/v1/projects", json={"name": "vision"}, headers=bearer(tokens.admin))
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "not_an_operator")
        key = bare.post("/v1/api_keys", json={"label": "mine", "project": "other"}, headers=bearer(tokens.admin))
        assert (key.status_code, key.json()["error"]["code"]) == (422, "wrong_project")

    def test_they_see_their_own_alone(self, api: TestClient) -> None:
        assert [one["name"] for one in api.get("/v1/projects").json()["data"]] == ["support"]
        assert api.get("/v1/projects/support").json()["name"] == "support"
        assert api.get("/v1/projects/other").status_code == 404
        assert api.get("/v1/projects/none").json()["error"]["code"] == "project_not_found"


@pytest.fixture
def owned(api: TestClient) -> dict[str, str]:
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
    connection = api.post("/v1/connections", json=own, headers=bearer(admin_of("support"))).json()
    metric = api.post("/v1/metrics", json={"spec": {"type": "exact_match"}}).json()
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


def filled(template: str, values: dict[str, str]) -> str:
    """The path with the ids of `values`; one that a longer prefix names goes first."""

    def one(match: re.Match[str]) -> str:
        return values.get(template[: match.end()]) or values[match[1]]

    return re.sub(r"\{(\w+)\}", one, template)


class TestAllRoutes:
    def test_another_projects_ids_are_not_found(self, api: TestClient, owned: dict[str, str]) -> None:
        """Every operation with an id in its path, asked by an admin of another project, who lacks no scope."""
        stranger = bearer(admin_of("other"))
        own = bearer(admin_of("support"))
        strange: dict[str, int] = {}
        for template, verbs in build_routes().openapi()["paths"].items():
            if "{" not in template:
                continue
            path = filled(template, owned)
            for verb, operation in verbs.items():
                reply = api.request(verb, path, json=BODIES.get(operation["operationId"]), headers=stranger)
                if reply.status_code != 404:
                    strange[f"{verb} {path}"] = reply.status_code
                if verb == "get" and operation["operationId"] not in NOT_YET:
                    assert api.get(path, headers=own).status_code != 404, path
        assert strange == {}

    def test_nor_do_lists_show_them(self, api: TestClient, owned: dict[str, str]) -> None:
        stranger = bearer(admin_of("other"))
        ids = set(owned.values()) - {"manifest.json", "support"}
        for template, verbs in build_routes().openapi()["paths"].items():
            if "get" in verbs and "{" not in template and template.startswith("/v1/"):
                text = api.get(template, headers=stranger).text
                assert not [one for one in ids if one in text], template
