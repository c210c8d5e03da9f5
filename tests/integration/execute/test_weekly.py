"""A weekly job in CI, as the command line runs it: rows by name, a gate before production, and nothing to do while nothing is new."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from distill.catalog import connections, keys
from distill.db import unit_of_work
from distill.settings import Settings, get_settings
from stillhouse.cli.main import app
from stillhouse.cli.output import Exit
from tests.integration.api.conftest import serving
from tests.integration.execute.house import SUPPORT, House, at_work, rows

SCOPES = ["jobs:read", "jobs:write", "aliases:write"]
JOB = """\
program_name: support-router
program: {file: spec.json}
trainset: {dataset: support-train, at: latest}   # grows every week
valset: {dataset: support-gold@v1}               # stands for good
metric: {type: exact_match, fields: [category]}
evaluate: {roles: [baseline, compiled], incumbent: support-router@prod}
"""
CREATE = ("jobs", "create", "-f", "job.yaml", "--if-changed", "--metadata", "git_sha=9f1c2ab", "--wait", "--timeout", "3h", "--json")
Run = Callable[..., Result]


@pytest.fixture
def pipeline(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A shell in an empty folder with address and key, beside a server that works."""
    monkeypatch.setenv("STILLHOUSE_BLOBS__ROOT", str(house.folder / "blobs"))
    get_settings.cache_clear()
    with unit_of_work() as s:
        monkeypatch.setenv("STILLHOUSE_API_KEY", keys.create(s, house.project_id, "ci", SCOPES)[1])
    desk = tmp_path / "desk"
    desk.mkdir()
    monkeypatch.chdir(desk)
    (desk / "spec.json").write_text(json.dumps(SUPPORT))
    (desk / "job.yaml").write_text(JOB)
    with serving() as address:
        monkeypatch.setenv("STILLHOUSE_BASE_URL", address)
        with unit_of_work() as s:
            connections.sync(s, Settings(connections=house.connections))  # an API that starts has those of its settings file alone
        # The worker's log would stand in what the commands print.
        with capture_logs(), at_work(house):
            yield lambda *arguments: CliRunner().invoke(app, list(arguments))


def push(pipeline: Run, name: str, count: int, start: int = 0) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(count)[start:]))
    done = pipeline("datasets", "push", "rows.jsonl", "--name", name)
    assert done.exit_code == Exit.OK, done.output


def promote(pipeline: Run, artifact: str) -> int:
    return pipeline("artifacts", "promote", artifact, "--alias", "prod", "--against", "prod", "--min-delta", "0").exit_code


@pytest.mark.slow
class TestWeekly:
    def test_a_second_week_without_new_rows_has_nothing_to_do(self, pipeline: Run, house: House) -> None:
        push(pipeline, "support-train", 12)
        push(pipeline, "support-gold", 18, start=12)
        first = pipeline(*CREATE, "--idempotency-key", "run-1")
        assert first.exit_code == Exit.OK, first.output
        job = json.loads(first.stdout)
        assert (job["status"], job["metadata"]) == ("succeeded", {"git_sha": "9f1c2ab"})
        artifact = job["artifact"]["id"]
        assert promote(pipeline, artifact) == Exit.OK
        asked = len(house.teacher.calls) + len(house.student.calls)

        push(pipeline, "support-train", 12)
        second = pipeline(*CREATE, "--idempotency-key", "run-2")
        assert second.exit_code == Exit.OK, second.output
        assert second.stderr == f"nothing to do: {artifact} stands, of {job['id']}\n"
        assert json.loads(second.stdout)["artifact"]["id"] == artifact
        assert promote(pipeline, artifact) == Exit.OK
        assert len(house.teacher.calls) + len(house.student.calls) == asked

        push(pipeline, "support-train", 15)
        third = pipeline(*CREATE, "--idempotency-key", "run-3")
        assert third.exit_code == Exit.OK, third.output
        grown = json.loads(third.stdout)
        assert grown["artifact"]["id"] != artifact
        assert promote(pipeline, grown["artifact"]["id"]) == Exit.INCONCLUSIVE
        told = pipeline("jobs", "report", grown["id"], "--markdown")
        assert "Compared with incumbent: **inconclusive**" in told.stdout
