"""Programs and metrics that are code, over HTTP: stored, shown, used in a job, refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from distill.settings import get_settings
from tests.integration.api.conftest import Tokens
from tests.support.installed import PACKAGE, make_runtime

DESK = {"reference": f"{PACKAGE}.programs:make_desk", "kwargs": {"rounds": 3}}
ROWS = [{"message": f"Message {i}", "team": "billing"} for i in range(4)]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_runtime(tmp_path_factory.mktemp("runtime"))


@pytest.fixture
def api(tokens: Tokens, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """An API whose runtime has the tests' package installed and allowed."""
    monkeypatch.setenv("STILLHOUSE_REFERENCES", f"acme, {PACKAGE}")
    with (tmp_path / "stillhouse.toml").open("a") as settings:
        settings.write(f'\n[runtimes.default]\npython = "{runtime}"\n')
    get_settings.cache_clear()
    with TestClient(create_app(configure_logs=False), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {tokens.all}"
        yield client


def fault(reply: Any, status: int = 422) -> tuple[str, str, str]:
    error = reply.json()["error"]
    assert reply.status_code == status, error
    return error["code"], error["param"], error["message"]


class TestPrograms:
    def test_is_described_stored_once_and_previewed(self, api: TestClient) -> None:
        reply = api.post("/v1/programs", json={**DESK, "name": "desk", "lms": {"classify": "router"}})
        assert reply.status_code == 201, reply.json()
        made = reply.json()
        assert made["predictors"] == ["classify", "writers['first']", "writers['again']"]
        assert (made["lms"], made["inputs"], made["outputs"]) == (["router", "student"], ["message", "urgent"], [])
        assert made["spec"]["reference"]["target"] == DESK["reference"]
        again = api.post("/v1/programs", json={**DESK, "lms": {"classify": "router"}}).json()
        assert again["id"] == made["id"]

        preview = api.post(f"/v1/programs/{made['id']}/render", json={"inputs": {"message": "Help me"}}).json()
        assert [call["predictor"] for call in preview["calls"]] == made["predictors"]
        assert preview["note"].startswith("This program is code")
        assert fault(api.post(f"/v1/programs/{made['id']}/render", json={"inputs": {}}))[0] == "invalid_inputs"

        whole = api.post("/v1/programs", json=made["spec"]).json()
        assert whole["id"] == made["id"], "the spec of a stored program is the same program"

    def test_is_refused_before_anything_is_imported(self, api: TestClient) -> None:
        code, param, message = fault(api.post("/v1/programs", json={"reference": "os:system", "kwargs": {"command": "true"}}))
        assert (code, param) == ("reference_not_allowed", "reference")
        assert message == (
            f"reference: os:system is in no package that this server may import (allowed are acme, {PACKAGE}; "
            "the operator sets STILLHOUSE_REFERENCES)"
        )
        spec = api.post("/v1/programs", json=DESK).json()["spec"]
        spec["reference"]["target"] = "os:system"
        assert fault(api.post("/v1/programs", json={"spec": spec}))[:2] == ("reference_not_allowed", "spec.reference.target")

    def test_what_the_code_raises_is_said(self, api: TestClient) -> None:
        found = fault(api.post("/v1/programs", json={**DESK, "kwargs": {"round": 3}}))
        assert found[:2] == ("reference_failed", "reference")
        assert found[2].endswith("raised TypeError: make_desk() got an unexpected keyword argument 'round'")

    @pytest.mark.parametrize("body", [{"name": "nothing"}, {**DESK, "spec": {"predictors": []}}, {"kwargs": {}, "predictors": []}])
    def test_either_a_spec_or_a_reference(self, api: TestClient, body: dict[str, Any]) -> None:
        assert all(fault(api.post("/v1/programs", json=body))[::2])


class TestJobs:
    def test_program_teacher_and_metric_by_reference(self, api: TestClient) -> None:
        metric = {"type": "reference", "reference": f"{PACKAGE}.metrics:right_team", "kwargs": {"ignore": "account"}}
        body = {"program": DESK, "teacher": {"program": {**DESK, "kwargs": {}}}, "trainset": ROWS, "metric": metric}
        reply = api.post("/v1/compile_jobs", json=body)
        assert reply.status_code == 201, reply.json()
        job = reply.json()
        assert job["program"] != job["teacher"][0]["program"]
        assert list(job["metric"]["source"]) == [PACKAGE, f"{PACKAGE}.metrics", f"{PACKAGE}.teams"]
        assert api.get(f"/v1/programs/{job['program']}").json()["spec"]["reference"]["kwargs"] == {"rounds": 3}

    def test_rows_are_checked_against_the_parameters(self, api: TestClient) -> None:
        rows = [{"message": "Help", "team": "billing"}, {"message": 7, "urgent": "very"}]
        found = fault(api.post("/v1/compile_jobs", json={"program": DESK, "trainset": rows}))
        assert found[:2] == ("invalid_rows", "trainset[1].message")

    def test_metric_in_no_allowed_package(self, api: TestClient) -> None:
        metric = {"type": "reference", "reference": "subprocess:run"}
        found = fault(api.post("/v1/compile_jobs", json={"program": DESK, "trainset": ROWS, "metric": metric}))
        assert found[:2] == ("reference_not_allowed", "metric.reference")

    def test_misspelt_part_of_an_inline_reference(self, api: TestClient) -> None:
        found = fault(api.post("/v1/compile_jobs", json={"program": {**DESK, "kwarg": {}}, "trainset": ROWS}))
        assert found[1] == "program.kwarg"
        assert "did you mean" in found[2]
