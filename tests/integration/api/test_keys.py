"""Nothing answers without a key but /livez, /readyz and /sign-in, and a key answers only for its scopes and project."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from app.auth import OPEN_PATHS
from distill.catalog import keys, projects
from distill.db import unit_of_work
from tests.integration.api.conftest import Tokens, fault, job_body
from tests.integration.api.every_route import NOBODYS, filled, operations


class TestWithoutKey:
    def test_every_operation_but_three_is_401(self, bare: TestClient) -> None:
        closed = [(verb, filled(path, NOBODYS)) for verb, path, _ in operations() if path not in OPEN_PATHS]
        assert len(closed) > 40
        statuses = {(verb, path): bare.request(verb, path, content=b"{not json").status_code for verb, path in closed}
        assert set(statuses.values()) == {401}, statuses

    @pytest.mark.parametrize("verb", ["GET", "POST", "PUT", "OPTIONS", "HEAD"])
    def test_unknown_paths_too(self, bare: TestClient, verb: str) -> None:
        assert bare.request(verb, "/v1/nothing").status_code == 401

    def test_health_answers(self, bare: TestClient) -> None:
        assert bare.get("/livez").json() == {"status": "ok"}
        assert bare.get("/readyz").json() == {"status": "ok"}

    @pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer sh_a_b", "Bearer \x00", "Basic eDp5", "sh_a_b"])
    def test_bad_headers(self, bare: TestClient, header: str) -> None:
        reply = bare.get("/v1/me", headers={"Authorization": header})
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.headers["x-request-id"] == reply.json()["error"]["request_id"]


class TestScopes:
    def test_reader_may_not_create(self, bare: TestClient, tokens: Tokens) -> None:
        reply = bare.post("/v1/compile_jobs", json=job_body(), headers={"Authorization": f"Bearer {tokens.read}"})
        assert reply.status_code == 403
        assert reply.json()["error"]["code"] == "missing_scope"
        assert "jobs:write" in reply.json()["error"]["message"]

    def test_model_user_may_not_read_jobs(self, bare: TestClient, tokens: Tokens) -> None:
        assert bare.get("/v1/compile_jobs", headers={"Authorization": f"Bearer {tokens.use}"}).status_code == 403

    def test_metrics_of_the_whole_server_are_for_those_who_run_it(self, api: TestClient, tokens: Tokens) -> None:
        for token in (tokens.all, tokens.admin):  # of a project like any other
            assert api.get("/metrics", headers={"Authorization": f"Bearer {token}"}).status_code == 403
        reply = api.get("/metrics", headers={"Authorization": f"Bearer {tokens.metrics}"})
        assert reply.status_code == 200
        assert 'stillhouse_http_requests_total{method="GET",route="/metrics",status="403"} 2.0' in reply.text
        assert api.get("/v1/compile_jobs", headers={"Authorization": f"Bearer {tokens.metrics}"}).status_code == 403
        with unit_of_work() as s:
            operator = keys.create(s, projects.ensure(s, projects.OPERATORS).id, "operator", ["admin"])[1]
        assert api.get("/metrics", headers={"Authorization": f"Bearer {operator}"}).status_code == 200

    def test_no_admin_gives_away_the_metrics_of_the_whole_server(self, api: TestClient, tokens: Tokens) -> None:
        body = {"label": "prometheus", "scopes": ["metrics:read"]}
        reply = api.post("/v1/api_keys", json=body, headers={"Authorization": f"Bearer {tokens.admin}"})
        assert fault(reply)[:2] == ("operators_scope", "scopes")

    def test_me_says_who(self, api: TestClient) -> None:
        me = api.get("/v1/me").json()
        assert me["project"] == "support"
        assert me["scopes"] == ["aliases:write", "jobs:read", "jobs:write", "models:use"]


class TestOtherProject:
    def test_its_objects_are_not_found(self, api: TestClient, tokens: Tokens) -> None:
        job = api.post("/v1/compile_jobs", json=job_body()).json()
        other = {"Authorization": f"Bearer {tokens.other}"}
        paths = [
            f"/v1/compile_jobs/{job['id']}",
            f"/v1/compile_jobs/{job['id']}/events",
            f"/v1/compile_jobs/{job['id']}/traces",
            f"/v1/programs/{job['program']}",
            f"/v1/datasets/{job['trainset']}",
            f"/v1/datasets/{job['trainset']}/rows",
        ]
        assert {path: api.get(path, headers=other).status_code for path in paths} == dict.fromkeys(paths, 404)
        assert api.post(f"/v1/compile_jobs/{job['id']}/cancel", headers=other).status_code == 404
        assert api.get("/v1/compile_jobs", headers=other).json()["data"] == []
