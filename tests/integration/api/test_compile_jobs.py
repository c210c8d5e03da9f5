"""Creating, reading and stopping compile jobs over HTTP."""

from __future__ import annotations

from starlette.testclient import TestClient

from tests.integration.api.conftest import job_body


class TestCreate:
    def test_smallest_request_is_queued_with_defaults_filled_in(self, api: TestClient) -> None:
        reply = api.post("/v1/compile_jobs", json=job_body(metadata={"git_sha": "9f1c2ab"}))
        assert reply.status_code == 201, reply.text
        job = reply.json()
        assert reply.headers["location"] == f"/v1/compile_jobs/{job['id']}"
        assert job["status"] == "queued"
        assert job["step"] == "validate"
        assert [step["name"] for step in job["steps"]] == ["validate"]
        assert job["lms"]["student"]["connection"] == "house"
        assert job["lms"]["student"]["model"] == "tiny"
        assert "connection_id" not in job["lms"]["student"]
        assert job["teacher"][0]["lms"]["student"]["connection"] == "big"
        assert job["metadata"] == {"git_sha": "9f1c2ab"}
        assert job["rollouts"]["n"] == 1
