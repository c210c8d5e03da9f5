"""Neither Redis nor a worker is there: jobs are accepted, and what callers ask of them is kept."""

import pytest
from starlette.testclient import TestClient

from distill.db import unit_of_work
from distill.jobs import claims
from distill.jobs.claims import WorkerInfo
from distill.settings import get_settings
from tests.integration.api.conftest import job_body


@pytest.fixture(autouse=True)
def redis_is_away(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()


def test_a_cancel_is_kept_for_a_job_that_waits_and_for_one_that_runs(api: TestClient) -> None:
    assert api.get("/readyz").status_code == 200
    running, queued = (api.post("/v1/compile_jobs", json=job_body()).json()["id"] for _ in range(2))
    with unit_of_work() as s:
        held = claims.claim(s, "rollouts", WorkerInfo("one-that-stands-still", frozenset({"runtime:default"})))
    assert held is not None
    assert held.job_id == running
    assert api.post(f"/v1/compile_jobs/{queued}/cancel").json()["status"] == "cancelled"
    assert api.post(f"/v1/compile_jobs/{running}/cancel").json()["status"] == "running"
    with unit_of_work() as s:
        assert claims.beat(s, held).cancel
        claims.release(s, held)
    assert api.get(f"/v1/compile_jobs/{running}").json()["status"] == "cancelled"
    with unit_of_work() as s:
        assert claims.claim(s, "rollouts", WorkerInfo("another", frozenset({"runtime:default"}))) is None
