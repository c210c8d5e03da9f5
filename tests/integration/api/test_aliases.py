"""/v1/aliases, and artifacts by alias."""

from __future__ import annotations

from starlette.testclient import TestClient

from tests.integration.api.conftest import Tokens
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
