"""Traces that exist already, from a file to training rows: the command line gives them, and the job asks its teacher nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from distill.db import unit_of_work
from distill.jobs import repository
from stillhouse import Stillhouse
from stillhouse.cli.main import app
from tests.integration.api.conftest import serving
from tests.integration.execute.client_player import TOML, token
from tests.integration.execute.house import SUPPORT, House, PretendTrainer, at_work, configured, rows
from tests.support import exports
from tests.support.scripted_lm import ScriptedLM

Json = dict[str, Any]
ROWS = rows(15)
JOB: Json = {"program": SUPPORT, "program_name": "desk", "trainset": ROWS[:12], "valset": ROWS[12:], "metric": "exact_match"}


@pytest.fixture
def house(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    with configured(tmp_path, TOML, teacher, student) as opened:
        yield opened


@pytest.fixture
def address(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serving() as url:
        monkeypatch.setenv("STILLHOUSE_BASE_URL", url)
        monkeypatch.setenv("STILLHOUSE_API_KEY", token("default"))
        yield url


def recorded(row: Json, predictor: str = "classify") -> Json:
    """A run of the program, as somebody kept it."""
    said = {"category": row["category"], "answer": f"Team {row['category']} will help."}
    first = {"predictor": predictor, "inputs": {"message": row["message"]}, "outputs": {"category": row["category"]}}
    asked = {"message": row["message"], "category": row["category"]}
    second = {"predictor": "reply", "inputs": asked, "outputs": {"answer": said["answer"]}}
    return {"inputs": {"message": row["message"]}, "outputs": said, "calls": [first, second]}


def imported(house: House, folder: Path, traces: Path, *options: str, exit_code: int = 0) -> Json:
    with at_work(house):
        done = CliRunner().invoke(app, ["jobs", "import", str(traces), "-f", str(folder / "job.json"), "--json", *options])
    assert done.exit_code == exit_code, done.output
    found: Json = json.loads(done.stdout)
    return found


@pytest.mark.slow
class TestImport:
    def test_a_job_of_recorded_runs_reaches_its_rows_and_asks_no_teacher(self, house: House, address: str, tmp_path: Path) -> None:
        stranger = recorded({"message": "Nobody's row", "category": "billing"})
        lines = [*map(json.dumps, map(recorded, ROWS)), json.dumps(stranger), "{", json.dumps(recorded(ROWS[0], "rank"))]
        traces = tmp_path / "traces.jsonl"
        traces.write_text("\n".join(lines))
        (tmp_path / "job.json").write_text(json.dumps(JOB))

        found = imported(house, tmp_path, traces)
        assert (found["received"], found["new"]) == (15, 15)
        reasons = {each["number"]: each["reason"] for each in found["rejected"]}
        assert list(reasons) == [16, 17, 18]
        assert reasons[16] == "no row of the dataset has these inputs"
        assert reasons[17].startswith("not valid JSON")
        assert reasons[18] == "it calls `rank`, and the program has classify, reply"
        assert imported(house, tmp_path, traces) == {**found, "new": 0}
        foreign = imported(house, tmp_path, exports.path("openinference.jsonl"), "--format", "openinference", exit_code=1)
        assert [(each["number"], each["reason"]) for each in foreign["rejected"]] == [(n, reasons[16]) for n in (1, 2, 3)]

        with Stillhouse() as client:
            assert all(job.status == "cancelled" for job in client.compile_jobs.list())
            job_id = client.compile_jobs.create(**JOB).id
        job = house.run(job_id, seconds=600)
        assert job.status == "succeeded", job.error
        assert not house.teacher.calls
        assert isinstance(house.trainer, PretendTrainer)
        assert [len(each["texts"]) for each in house.trainer.jobs] == [24]
        with unit_of_work() as s:
            kept = s.scalar(text("SELECT count(*) FROM traces WHERE source = 'import'"))
            counts = next(view.counts for view in repository.steps(s, job_id) if view.name == "bootstrap")
        assert kept == 15
        assert counts["teacher_calls"] == 0
