"""The audit log: what was done, by which key, in the transaction of the act."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from starlette.testclient import TestClient

from distill.catalog import aliases, projects
from distill.db import unit_of_work
from tests.integration.api.conftest import ROWS, SPEC, Tokens, job_body
from tests.integration.api.finished import MODEL, finish


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def log(api: TestClient, tokens: Tokens) -> Any:
    """Reads the log as an admin; what setting up had done is left out. Without pages, all of it."""

    def read(**params: Any) -> list[dict[str, Any]]:
        reply = api.get("/v1/audit_log", params={"limit": 100, **params}, headers=bearer(tokens.admin))
        assert reply.status_code == 200, reply.text
        found: list[dict[str, Any]] = reply.json()["data"]
        return [entry for entry in found if entry["key_id"]]

    return read


class TestActs:
    def test_keys(self, api: TestClient, tokens: Tokens, log: Any) -> None:
        admin = bearer(tokens.admin)
        me = api.get("/v1/me", headers=admin).json()["key_id"]
        old = api.post("/v1/api_keys", json={"label": "ci", "scopes": ["jobs:read"]}, headers=admin).json()
        new = api.post("/v1/api_keys", json={"replaces": old["id"]}, headers=admin).json()
        api.delete(f"/v1/api_keys/{new['id']}", headers=admin)
        api.delete(f"/v1/api_keys/{new['id']}", headers=admin)
        entries = log()
        assert [(entry["action"], entry["object_id"], entry["key_id"]) for entry in entries] == [
            ("api_key.revoked", new["id"], me),
            ("api_key.replaced", old["id"], me),
            ("api_key.created", new["id"], me),
            ("api_key.created", old["id"], me),
        ]
        assert entries[3]["data"] == {"label": "ci", "scopes": ["jobs:read"], "expires_at": None}
        assert entries[1]["data"]["by"] == new["id"]
        assert not [entry for entry in entries if new["token"].split("_", 2)[2] in str(entry)]

    def test_aliases_artifacts_and_models(self, api: TestClient, log: Any) -> None:
        finished = finish(api)
        artifact = finished.artifact_id
        for _ in range(2):
            assert api.put("/v1/aliases/router@prod", json={"artifact": artifact}).status_code == 200
        assert api.delete(f"/v1/artifacts/{artifact}").status_code == 409
        assert api.delete("/v1/aliases/router@prod").status_code == 200
        assert api.delete(f"/v1/artifacts/{artifact}").status_code == 200
        api.post(f"/v1/compile_jobs/{finished.job_id}/cancel")
        assert api.delete(f"/v1/models/{MODEL}").status_code == 200
        assert [(entry["action"], entry["object_id"], entry["data"]) for entry in log()] == [
            ("model.deleted", MODEL, {}),
            ("job.cancelled", finished.job_id, {"status": "queued"}),
            ("artifact.deleted", artifact, {}),
            ("alias.removed", "router@prod", {"from": artifact, "to": None}),
            ("alias.moved", "router@prod", {"from": None, "to": artifact}),
        ]

    def test_jobs(self, api: TestClient, log: Any) -> None:
        job = api.post("/v1/compile_jobs", json=job_body(budget={"max_calls": 5})).json()["id"]
        api.patch(f"/v1/compile_jobs/{job}", json={"budget": {"max_calls": 9}})
        api.patch(f"/v1/compile_jobs/{job}", json={"budget": {"max_calls": 9}, "name": "again"})
        for _ in range(2):
            assert api.post(f"/v1/compile_jobs/{job}/cancel").status_code == 200
        assert [(entry["action"], entry["data"]) for entry in log(object_id=job)] == [
            ("job.cancelled", {"status": "queued"}),
            ("budget.changed", {"from": {"max_calls": 5}, "to": {"max_calls": 9}}),
        ]

    def test_data_and_programs(self, api: TestClient, log: Any) -> None:
        dataset = api.post("/v1/datasets?name=train", json={"rows": ROWS}).json()["id"]
        program = api.post("/v1/programs", json={"spec": SPEC}).json()["id"]
        assert api.delete("/v1/datasets/train@v1").status_code == 200
        assert api.get(f"/v1/datasets/{dataset}").status_code == 404
        assert api.delete(f"/v1/programs/{program}").status_code == 200
        metric = api.post("/v1/metrics", json={"spec": "exact_match"}).json()["id"]
        assert api.delete(f"/v1/metrics/{metric}").status_code == 200
        assert [(entry["action"], entry["object_id"]) for entry in log()] == [
            ("metric.deleted", metric),
            ("program.deleted", program),
            ("dataset.deleted", dataset),
        ]


class TestReading:
    def test_pages_and_filters(self, api: TestClient, tokens: Tokens, log: Any) -> None:
        admin = bearer(tokens.admin)
        made = [api.post("/v1/api_keys", json={"label": "ci"}, headers=admin).json()["id"] for _ in range(5)]
        seen: list[str] = []
        page = {"limit": 2, "action": "api_key.created", "key_id": api.get("/v1/me", headers=admin).json()["key_id"]}
        while True:
            reply = api.get("/v1/audit_log", params=page, headers=admin).json()
            seen += [entry["object_id"] for entry in reply["data"]]
            if not reply["has_more"]:
                break
            page["after"] = reply["last_id"]
        assert seen == made[::-1]

    def test_only_an_admin_reads_it_and_only_of_the_own_project(self, api: TestClient, tokens: Tokens, log: Any) -> None:
        assert api.get("/v1/audit_log").status_code == 403
        with unit_of_work() as s:
            other = projects.get(s, "other").id
        assert other not in str(log())
        listed = api.get("/v1/audit_log", headers=bearer(tokens.admin)).json()["data"]
        assert {entry["action"] for entry in listed} == {"api_key.created"}
        assert len(listed) == 4

    def test_what_the_servers_own_command_line_did_has_no_key(self, api: TestClient, tokens: Tokens) -> None:
        listed = api.get("/v1/audit_log", headers=bearer(tokens.admin)).json()["data"]
        assert {entry["key_id"] for entry in listed} == {None}


class TestTransaction:
    def test_an_act_that_is_taken_back_leaves_no_entry(self, api: TestClient, log: Any) -> None:
        artifact = finish(api).artifact_id
        with suppress(RuntimeError), unit_of_work() as s:
            aliases.move(s, projects.get(s, "support").id, aliases.parse("router@prod"), artifact, None)
            raise RuntimeError
        assert api.get("/v1/aliases/router@prod").status_code == 404
        assert log(object_id="router@prod") == []
