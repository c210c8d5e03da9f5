"""What would a request come to? Nothing of it is stored."""

from __future__ import annotations

import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from sqlalchemy import text
from starlette.testclient import TestClient
from typer.testing import CliRunner

from distill.db import unit_of_work
from distill.settings import get_settings
from stillhouse import BootstrapFinetune, Stillhouse, StillhouseError
from stillhouse.cli.main import app as cli
from tests.integration.api.conftest import ROWS, SPEC, Tokens, job_body

HEADER = {"message": "message", "category": "category"}
TABLES = ("jobs", "programs", "metrics", "datasets", "blobs", "work_items", "job_events", "outbox", "idempotency_keys")


def stored() -> dict[str, int]:
    """How many rows each table has, and how many files the blob store."""
    with unit_of_work() as s:
        counts = {table: int(s.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()) for table in TABLES}
    folder = Path(get_settings().blob_root)
    return {**counts, "files": sum(1 for place in folder.rglob("*") if place.is_file())}


class TestDryRun:
    def test_a_request_is_checked_and_nothing_is_stored(self, api: TestClient) -> None:
        before = stored()
        reply = api.post("/v1/compile_jobs?dry_run=true", json=job_body(rollouts={"n": 4}), headers={"Idempotency-Key": "k"})
        assert reply.status_code == 200, reply.text
        tried = reply.json()
        assert tried["object"] == "compile.job.dry_run"
        assert (tried["job"]["program"], tried["job"]["trainset"]) == (None, None)
        assert tried["job"]["rollouts"] == {
            "n": 4,
            "temperature": 1.0,
            "stop_on_pass": True,
            "stored_only": False,
            "retry_failed": False,
            "where": "server",
        }
        assert tried["job"]["lms"]["student"]["model"] == "tiny"
        assert stored() == before
        made = api.post("/v1/compile_jobs", json=job_body(rollouts={"n": 4}), headers={"Idempotency-Key": "k"})
        assert made.status_code == 201, made.text
        assert made.json()["spec_digest"] == tried["job"]["spec_digest"]

    @pytest.mark.parametrize("changes", [{"trainset": [*ROWS, {"category": "billing"}]}, {"metric": "exakt"}, {"trainset": "ds-none"}])
    def test_it_is_refused_as_the_job_would_be(self, api: TestClient, changes: dict[str, Any]) -> None:
        tried = api.post("/v1/compile_jobs?dry_run=true", json=job_body(**changes))
        made = api.post("/v1/compile_jobs", json=job_body(**changes))
        assert (tried.status_code, made.status_code) == (422, 422)
        errors = [{**reply.json()["error"], "request_id": ""} for reply in (tried, made)]
        assert errors[0] == errors[1]

    def test_it_needs_the_scope_that_creating_needs(self, bare: TestClient, tokens: Tokens) -> None:
        reply = bare.post("/v1/compile_jobs?dry_run=true", json=job_body(), headers={"Authorization": f"Bearer {tokens.read}"})
        assert reply.status_code == 403


class Route(dspy.Signature):
    """Route a customer message to one team."""

    message: str = dspy.InputField()
    category: Literal["billing", "technical"] = dspy.OutputField()


def asking(model: str) -> dspy.Predict:
    predictor = dspy.Predict(Route)
    predictor.set_lm(dspy.LM(model))
    return predictor


def made_by_the_drop_in(client: Stillhouse) -> Any:
    """The job of a call of `compile`, which is cancelled then: no worker is there."""
    optimizer, pause = BootstrapFinetune(metric="exact_match", client=client), threading.Event()
    examples = [dspy.Example(row).with_inputs("message") for row in ROWS]
    with ThreadPoolExecutor(1) as pool:
        compiling = pool.submit(optimizer.compile, asking("house/tiny"), examples, teacher=asking("big/big-model"))
        while optimizer.job is None and not compiling.done():
            pause.wait(0.02)
        if optimizer.job is not None:
            client.compile_jobs.cancel(optimizer.job.id)
        with pytest.raises(StillhouseError, match="is cancelled"):
            compiling.result(60)
    return optimizer.job


class TestSpecDigest:
    def test_is_the_same_by_curl_sdk_command_line_and_drop_in(
        self, address: str, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        body = job_body()
        (tmp_path / "job.json").write_text(json.dumps(body))
        command = ["curl", "-sS", "--fail-with-body", f"{address}/v1/compile_jobs", "-H", f"Authorization: Bearer {tokens.all}"]
        sent = subprocess.run([*command, "-d", f"@{tmp_path / 'job.json'}"], check=True, capture_output=True, timeout=60)
        with Stillhouse(address, tokens.all) as client:
            dataset = client.datasets.create(ROWS)
            made = client.compile_jobs.create(**{**body, "trainset": dataset.id})
            dropped_in = made_by_the_drop_in(client)
        monkeypatch.setenv("STILLHOUSE_BASE_URL", address)
        monkeypatch.setenv("STILLHOUSE_API_KEY", tokens.all)
        (tmp_path / "spec.json").write_text(json.dumps(SPEC))
        (tmp_path / "train.csv").write_text("".join(f'"{row["message"]}",{row["category"]}\n' for row in [HEADER, *ROWS]))
        lines = ["program: {file: spec.json}", "trainset: {file: train.csv}", "metric: exact_match"]
        (tmp_path / "job.yaml").write_text("\n".join(lines))
        shown = CliRunner().invoke(cli, ["jobs", "create", "-f", str(tmp_path / "job.yaml"), "--json"])
        jobs = [json.loads(sent.stdout), made.model_dump(), json.loads(shown.stdout), dropped_in.model_dump()]
        assert len({job["spec_digest"] for job in jobs}) == 1

    def test_rows_count_by_their_content_wherever_they_are(self, api: TestClient) -> None:
        one, other = (api.post("/v1/compile_jobs", json=job_body()).json() for _ in range(2))
        assert one["trainset"] != other["trainset"]
        assert one["spec_digest"] == other["spec_digest"]
        added = api.post("/v1/compile_jobs", json=job_body(trainset=[*ROWS, ROWS[0]])).json()
        assert added["spec_digest"] != one["spec_digest"]
