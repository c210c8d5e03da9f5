"""Deleting artifacts and models: refused while somebody needs them, and then it says who."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from distill.catalog import aliases, artifacts, projects
from distill.db import unit_of_work
from distill.errors import NotFound
from tests.integration.api.conftest import Tokens
from tests.integration.api.finished import MODEL, Finished, finish

PROD = "/v1/aliases/router@prod"


def trained(finished: Finished) -> None:
    """The job's key has its model."""
    with unit_of_work() as s:
        done = "status = 'succeeded', started_at = now(), finished_at = now(), model_id = :model"
        s.execute(text(f"UPDATE fine_tune_jobs SET {done} WHERE job_id = :job"), {"model": MODEL, "job": finished.job_id})


class TestArtifacts:
    def test_one_that_an_alias_points_at_stays(self, api: TestClient, tokens: Tokens) -> None:
        path = f"/v1/artifacts/{finish(api).artifact_id}"
        api.put(PROD, json={"artifact": path.rpartition("/")[2]})
        refused = api.delete(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "artifact_in_use")
        assert "router@prod" in refused.json()["error"]["message"]
        assert api.delete(path, headers={"Authorization": f"Bearer {tokens.read}"}).status_code == 403
        assert api.delete(path, headers={"Authorization": f"Bearer {tokens.other}"}).status_code == 404
        api.delete(PROD)
        assert api.delete(path).json() == {"id": path.rpartition("/")[2], "object": "artifact", "deleted": True}
        assert api.get(path).status_code == 404
        assert api.get("/v1/artifacts").json()["data"] == []
        assert api.put(PROD, json={"artifact": path.rpartition("/")[2]}).status_code == 404

    def test_an_alias_is_not_left_pointing_at_one_that_goes_meanwhile(self, api: TestClient) -> None:
        artifact_id, outcome = finish(api).artifact_id, list[str]()

        def move() -> None:
            try:
                with unit_of_work() as s:
                    aliases.move(s, projects.get(s, "support").id, aliases.parse("router@prod"), artifact_id, None)
                outcome.append("moved")
            except NotFound:
                outcome.append("refused")

        with unit_of_work() as s:
            artifacts.delete(s, projects.get(s, "support").id, artifact_id)
            mover = threading.Thread(target=move)
            mover.start()
            while s.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one() == 0 and mover.is_alive():
                continue  # until the other transaction waits for this one
        mover.join(30)
        assert outcome == ["refused"]


class TestModels:
    def test_one_that_a_job_or_an_alias_needs_stays(self, api: TestClient) -> None:
        finished = finish(api)
        trained(finished)
        path = f"/v1/models/{MODEL}"
        refused = api.delete(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_in_use")
        assert finished.job_id in refused.json()["error"]["message"]
        api.post(f"/v1/compile_jobs/{finished.job_id}/cancel")
        api.put(PROD, json={"artifact": finished.artifact_id})
        refused = api.delete(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_in_use")
        assert "router@prod" in refused.json()["error"]["message"]
        api.delete(PROD)
        assert api.delete(f"/v1/models/openai/{MODEL}").json() == {"id": MODEL, "object": "model", "deleted": True}
        assert api.get(path).status_code == 404
        assert MODEL not in [model["id"] for model in api.get("/v1/models").json()["data"]]
        assert api.delete(path).status_code == 404

    @pytest.mark.parametrize("name", ["house/tiny", "sh-nothing"])
    def test_what_is_no_fine_tuned_model_of_the_project_is_not_found(self, api: TestClient, name: str) -> None:
        assert api.delete(f"/v1/models/{name}").status_code == 404
