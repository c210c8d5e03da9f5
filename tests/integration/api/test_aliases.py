"""/v1/aliases, and artifacts by alias."""

from __future__ import annotations

from starlette.testclient import TestClient

from tests.integration.api.conftest import Tokens, job_body
from tests.integration.api.finished import finish

PROD = "/v1/aliases/router@prod"


class TestAliases:
    def test_an_alias_stands_for_its_artifact(self, api: TestClient) -> None:
        artifact_id = finish(api).artifact_id
        made = api.put(PROD, json={"artifact": artifact_id})
        assert made.status_code == 200
        assert made.json() | {"id": "", "created_at": 0, "moved_at": 0, "moved_by": ""} == {
            "id": "", "object": "alias", "created_at": 0, "name": "router@prod", "program_name": "router", "alias": "prod",
            "artifact": artifact_id, "moved_at": 0, "moved_by": "", "load": 'stillhouse.load("router@prod")',
        }  # fmt: skip
        assert api.get(PROD).json() == made.json()
        assert api.get("/v1/aliases?program=router").json()["data"] == [made.json()]
        assert api.get("/v1/aliases?program=other").json()["data"] == []
        assert api.get("/v1/artifacts/router@prod").json()["id"] == artifact_id
        assert api.get("/v1/artifacts/router@prod/files/README.md").text == "# router"
        assert api.get("/v1/artifacts/router@prod/content").status_code == 200

    def test_a_call_goes_to_what_the_alias_names(self, api: TestClient) -> None:
        api.put(PROD, json={"artifact": finish(api).artifact_id})
        reply = api.post("/v1/artifacts/router@prod/call", json={"inputs": {"message": "It crashes"}})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_loading")
        assert api.post("/v1/artifacts/router@prd/call", json={"inputs": {"message": "It crashes"}}).status_code == 404

    def test_history_outlives_the_alias(self, api: TestClient) -> None:
        artifact_id = finish(api).artifact_id
        api.put(PROD, json={"artifact": artifact_id})
        assert api.delete(PROD).json() == {"id": "router@prod", "object": "alias", "deleted": True}
        assert api.get(PROD).status_code == 404
        moves = api.get(f"{PROD}/history").json()["data"]
        assert [(move["previous_artifact"], move["artifact"]) for move in moves] == [(artifact_id, None), (None, artifact_id)]
        assert all(move["moved_by"].startswith("key-") for move in moves)

    def test_a_gate_that_was_not_measured_is_a_conflict(self, api: TestClient) -> None:
        api.put(PROD, json={"artifact": finish(api).artifact_id})
        other = finish_again(api)
        reply = api.put(PROD, json={"artifact": other, "against": "router@prod"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "not_compared")
        assert '"incumbent": "router@prod"' in reply.json()["error"]["message"]

    def test_moving_needs_its_own_scope(self, api: TestClient, tokens: Tokens) -> None:
        artifact_id = finish(api).artifact_id
        for token in (tokens.read, tokens.use):
            reply = api.put(PROD, json={"artifact": artifact_id}, headers={"Authorization": f"Bearer {token}"})
            assert (reply.status_code, reply.json()["error"]["code"]) == (403, "missing_scope")
        api.put(PROD, json={"artifact": artifact_id})
        assert api.get(PROD, headers={"Authorization": f"Bearer {tokens.use}"}).status_code == 200
        assert api.delete(PROD, headers={"Authorization": f"Bearer {tokens.use}"}).status_code == 403

    def test_another_project_sees_nothing(self, api: TestClient, tokens: Tokens) -> None:
        artifact_id = finish(api).artifact_id
        api.put(PROD, json={"artifact": artifact_id})
        other = {"Authorization": f"Bearer {tokens.other}"}
        for path in (PROD, f"{PROD}/history", "/v1/artifacts/router@prod"):
            assert api.get(path, headers=other).status_code == 404
        assert api.get("/v1/aliases", headers=other).json()["data"] == []
        assert api.put(PROD, json={"artifact": artifact_id}, headers=other).status_code == 404

    def test_what_is_no_alias_is_refused(self, api: TestClient) -> None:
        for name in ("router", "router@Prod", "router@a@b"):
            reply = api.get(f"/v1/aliases/{name}")
            assert (reply.status_code, reply.json()["error"]["param"]) == (422, "name")


def finish_again(api: TestClient) -> str:
    """A second artifact of the same program."""
    return finish(api, model="sh-router-self-second00").artifact_id


class TestIncumbent:
    def test_a_program_without_the_alias_has_nothing_to_beat_yet(self, api: TestClient) -> None:
        body = job_body(program_name="router", evaluate={"incumbent": "router@prod"})
        job = api.post("/v1/compile_jobs", json=body)
        assert job.status_code == 201
        assert job.json()["evaluate"] == {"roles": ["baseline", "teacher", "compiled"], "incumbent": "router@prod"}

    def test_an_alias_of_nothing_is_refused(self, api: TestClient) -> None:
        reply = api.post("/v1/compile_jobs", json=job_body(program_name="router", evaluate={"incumbent": "ruoter@prod"}))
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (422, "alias_not_found", "evaluate.incumbent")
        assert 'did you mean "router@prod"' in error["message"]
        assert api.post("/v1/compile_jobs", json=job_body(evaluate={"incumbent": "prod"})).status_code == 422

    def test_an_unfinished_job_has_no_pairs_and_says_nothing_yet(self, api: TestClient) -> None:
        job_id = api.post("/v1/compile_jobs", json=job_body()).json()["id"]
        assert api.get(f"/v1/compile_jobs/{job_id}/evaluations/pairs").json()["data"] == []
        assert api.get(f"/v1/compile_jobs/{job_id}/evaluations").json()["delta"] is None
        assert api.get(f"/v1/compile_jobs/{job_id}/evaluations/pairs?change=worse").status_code == 422
