"""Deleting artifacts and models: refused while somebody needs them, and then it says who."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from distill.catalog import aliases, artifacts, fine_tuned, projects
from distill.db import Session, unit_of_work
from distill.errors import Conflict, NotFound
from distill.jobs import retrying
from distill.jobs import trained as trained_models
from tests.integration.api.conftest import Tokens, job_body
from tests.integration.api.finished import HAS_MODEL, MODEL, finish, trained
from tests.integration.core.world import execute

PROD = "/v1/aliases/router@prod"


def failed(api: TestClient) -> str:
    """A job that has failed after its training."""
    finished = finish(api)
    trained(finished)
    error = {"code": "x", "message": "It broke.", "step": "evaluate", "category": "system"}
    execute(
        "UPDATE jobs SET status = 'failed', started_at = now(), finished_at = now(), error = CAST(:error AS json)", error=json.dumps(error)
    )
    return finished.job_id


def deleted_meanwhile(project_id: str, s: Session) -> Callable[[], str]:
    """Somebody deletes MODEL and comes as far as the transaction of `s` lets him; what came of it is told once that is over."""
    outcome: list[str] = []

    def delete() -> None:
        try:
            with unit_of_work() as other:
                trained_models.delete(other, project_id, MODEL)
            outcome.append("deleted")
        except Conflict as refused:
            outcome.append(refused.code)

    def ended() -> str:
        deleter.join(30)
        return outcome[0]

    deleter = threading.Thread(target=delete)
    deleter.start()
    while s.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one() == 0 and deleter.is_alive():
        continue  # until the other transaction waits for this one
    return ended


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

    def test_one_that_another_job_asks_stays_when_the_job_it_came_from_is_deleted(self, api: TestClient) -> None:
        first = failed(api)
        other = api.post("/v1/compile_jobs", json=job_body(program_name="other")).json()["id"]
        execute("UPDATE jobs SET spec = :own || substr(spec, 2) WHERE id = :id", own=f'{{"model":"{MODEL}",', id=other)
        refused = api.delete(f"/v1/compile_jobs/{first}", params={"cascade": "artifacts"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_in_use"), refused.text
        assert other in refused.json()["error"]["message"]

    def test_a_job_that_has_lost_one_is_not_retried(self, api: TestClient) -> None:
        job_id = failed(api)
        assert api.delete(f"/v1/models/{MODEL}").status_code == 200
        refused = api.post(f"/v1/compile_jobs/{job_id}/retry")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_deleted")
        assert MODEL in refused.json()["error"]["message"]
        assert api.get(f"/v1/compile_jobs/{job_id}").json()["status"] == "failed"

    def test_a_job_that_has_lost_one_is_no_reason_to_make_no_other(self, api: TestClient) -> None:
        finished, same = finish(api), "/v1/compile_jobs?if_changed=true"
        trained(finished)
        execute("UPDATE jobs SET status = 'succeeded', started_at = now(), finished_at = now()")
        assert api.post(same, json=job_body(program_name="router")).json()["id"] == finished.job_id
        assert api.delete(f"/v1/models/{MODEL}").status_code == 200
        assert api.post(same, json=job_body(program_name="router")).status_code == 201

    def test_one_whose_job_is_being_retried_stays(self, api: TestClient) -> None:
        job_id = failed(api)
        with unit_of_work() as s:
            project_id = projects.get(s, "support").id
            retrying.retry(s, project_id, job_id)
            outcome = deleted_meanwhile(project_id, s)
        assert outcome() == "model_in_use"

    def test_one_that_a_key_is_about_to_take_over_stays(self, api: TestClient) -> None:
        job_id = finish(api).job_id
        with unit_of_work() as s:
            project_id = projects.get(s, "support").id
            model = fine_tuned.hold(s, project_id, MODEL)
            outcome = deleted_meanwhile(project_id, s)
            s.execute(HAS_MODEL, {"model": model.id, "job": job_id})
        assert outcome() == "model_in_use"

    @pytest.mark.parametrize("name", ["house/tiny", "sh-nothing"])
    def test_what_is_no_fine_tuned_model_of_the_project_is_not_found(self, api: TestClient, name: str) -> None:
        assert api.delete(f"/v1/models/{name}").status_code == 404
