"""Pause and resume over HTTP, by the SDK and on the command line."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from stillhouse import AsyncStillhouse, ConflictError, Stillhouse
from stillhouse.cli.main import app
from stillhouse.cli.output import Exit
from tests.integration.api.conftest import ROWS, SPEC, Tokens, job_body
from tests.integration.api.finished import finish


class TestRoutes:
    def test_a_queued_job_stands_still_and_goes_on(self, api: TestClient) -> None:
        path = f"/v1/compile_jobs/{api.post('/v1/compile_jobs', json=job_body()).json()['id']}"
        assert api.get(path).json()["pause"] is None
        paused = api.post(f"{path}/pause").json()
        assert (paused["status"], paused["queue"]) == ("paused", None)
        assert paused["pause"]["code"] == "requested"
        assert paused["pause"]["requested_at"] >= paused["created_at"]
        assert api.post(f"{path}/pause").json() == paused
        resumed = api.post(f"{path}/resume").json()
        assert (resumed["status"], resumed["pause"]) == ("queued", None)
        assert api.post(f"{path}/resume").status_code == 200

    def test_a_final_job_is_a_conflict_and_an_unknown_one_not_found(self, api: TestClient) -> None:
        job_id = api.post("/v1/compile_jobs", json=job_body()).json()["id"]
        api.post(f"/v1/compile_jobs/{job_id}/cancel")
        for verb in ("pause", "resume"):
            refused = api.post(f"/v1/compile_jobs/{job_id}/{verb}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "job_over")
            assert "has already been cancelled" in refused.json()["error"]["message"]
            assert api.post(f"/v1/compile_jobs/cjob-nobody/{verb}").status_code == 404

    def test_a_reader_may_not(self, api: TestClient, tokens: Tokens) -> None:
        job_id = api.post("/v1/compile_jobs", json=job_body()).json()["id"]
        for verb in ("pause", "resume"):
            assert api.post(f"/v1/compile_jobs/{job_id}/{verb}", headers={"Authorization": f"Bearer {tokens.read}"}).status_code == 403

    @pytest.mark.parametrize("verb", ["pause", "resume"])
    def test_a_child_names_its_parent(self, api: TestClient, verb: str) -> None:
        job_id = finish(api).job_id
        child = api.get(f"/v1/compile_jobs/{job_id}/fine_tuning_jobs").json()["data"][0]["id"]
        refused = api.post(f"/v1/fine_tuning/jobs/{child}/{verb}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "child_of_compile_job")
        assert f"/v1/compile_jobs/{job_id}/{verb}" in refused.json()["error"]["message"]


class TestClients:
    def test_sdk(self, address: str, tokens: Tokens) -> None:
        with Stillhouse(address, tokens.all) as client:
            job = client.compile_jobs.create(program=SPEC, trainset=ROWS)
            paused = client.compile_jobs.pause(job.id)
            assert paused.pause is not None
            assert (paused.status, paused.pause.code) == ("paused", "requested")
            assert client.compile_jobs.wait(job.id, timeout=20).status == "paused"
            assert client.compile_jobs.resume(job.id).status == "queued"
            client.compile_jobs.cancel(job.id)
            with pytest.raises(ConflictError):
                client.compile_jobs.pause(job.id)

    def test_async_sdk(self, address: str, tokens: Tokens) -> None:
        async def go() -> list[str]:
            async with AsyncStillhouse(address, tokens.all) as client:
                job = await client.compile_jobs.create(program=SPEC, trainset=ROWS)
                await client.compile_jobs.pause(job.id)
                waited = await client.compile_jobs.wait(job.id, timeout=20)
                return [waited.status, (await client.compile_jobs.resume(job.id)).status]

        assert asyncio.run(go()) == ["paused", "queued"]

    def test_command_line(self, api: TestClient, address: str, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_BASE_URL", address)
        monkeypatch.setenv("STILLHOUSE_API_KEY", tokens.all)
        job_id = api.post("/v1/compile_jobs", json=job_body()).json()["id"]
        shell = CliRunner()
        shown = shell.invoke(app, ["jobs", "pause", job_id])
        assert shown.exit_code == Exit.OK
        assert "Paused on request" in shown.output
        assert shell.invoke(app, ["jobs", "get", job_id, "--wait"]).exit_code == Exit.PAUSED
        assert json.loads(shell.invoke(app, ["jobs", "resume", job_id, "--json"]).stdout)["status"] == "queued"
