"""A job from its request to its loaded program, with the SDK, over HTTP: only the weights are pretended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

import stillhouse
from distill.catalog import keys
from distill.db import unit_of_work
from distill.settings import get_settings
from stillhouse import NotFoundError, Stillhouse
from stillhouse.types import CompileJob, TrainingFile
from tests.integration.api.conftest import serving
from tests.integration.execute.house import SUPPORT, House, guesses, knows, rows
from tests.support.scripted_lm import ScriptedLM

CONNECTIONS = """
[connections.house]
base_url = "{student}"
models = ["tiny"]
default_student = true
supports = ["structured_outputs", "lora"]
trainer = "local"

[connections.teacher]
base_url = "{teacher}"
models = ["big"]
default_teacher = true
"""


@dataclass(frozen=True)
class Done:
    """A finished job, and the client that asked for it."""

    job: CompileJob
    client: Stillhouse
    student: ScriptedLM


@pytest.fixture
def done(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Done]:
    monkeypatch.setenv("STILLHOUSE_BLOBS__ROOT", str(tmp_path / "blobs"))
    with ScriptedLM(answer=knows) as teacher, ScriptedLM(answer=guesses) as student, House(tmp_path, teacher, student) as house:
        text = CONNECTIONS.format(student=student.url, teacher=teacher.url)
        (tmp_path / "stillhouse.toml").write_text(text, encoding="utf-8")
        get_settings.cache_clear()
        with unit_of_work() as s:
            token = keys.create(s, house.project_id, "test")[1]
        with serving() as url, Stillhouse(url, token) as client:
            monkeypatch.setenv("STILLHOUSE_API_KEY", token)
            job = client.compile_jobs.create(
                program=SUPPORT,
                trainset=rows(24),
                valset=rows(12),
                metric={"type": "exact_match", "fields": ["category"]},
                multitask=False,
                program_name="support",
            )
            house.run(job.id)
            yield Done(client.compile_jobs.wait(job.id, timeout=10), client, student)


class TestFinishedJob:
    def test_everything_about_it_can_be_read_and_its_program_runs(self, done: Done, tmp_path: Path) -> None:
        job, jobs = done.job, done.client.compile_jobs
        assert (job.status, job.progress.percent, job.error) == ("succeeded", 100, None)
        assert [step.name for step in job.steps] == ["validate", "bootstrap", "prepare", "train", "evaluate", "package"]
        assert {step.status for step in job.steps} == {"succeeded"}
        assert job.evaluation is not None
        assert job.evaluation["delta"]["verdict"] == "better"
        assert {child.predictor for child in job.fine_tuning_jobs} == {"classify", "reply"}

        taught = list(jobs.traces.list(job.id, role="teacher:0", limit=10))
        assert sorted(trace.row or 0 for trace in taught) == list(range(1, 25))
        assert {call["predictor"] for call in taught[0].calls} == {"classify", "reply"}
        assert taught[0].score == {"value": 1.0, "passed": True}
        assert len(list(jobs.traces.list(job.id, role="compiled"))) == 12

        evaluation = jobs.evaluation(job.id)
        assert {role.role for role in evaluation.data} == {"baseline", "teacher", "compiled"}
        assert (evaluation.delta or {})["fixes"] == 8
        assert evaluation.references == job.evaluation["references"]
        assert {role.undecided for role in evaluation.data} == {0}
        fixes = list(jobs.pairs(job.id, change="fix", limit=5))
        assert [pair.row for pair in fixes] == [1, 2, 4, 5, 7, 8, 10, 11]
        assert fixes[0].data == rows(1)[0]
        assert (fixes[0].compiled["outputs"]["category"], fixes[0].against["outputs"]["category"]) == ("billing", "account")
        assert list(jobs.pairs(job.id, change="regression")) == []

        files = {file.predictor: file for file in jobs.training_files(job.id).data}
        assert sum(file.rows for file in files.values()) > 0
        self.records_can_be_downloaded(done, files)
        curves = {curve.predictor: curve.points for curve in jobs.curves(job.id).data}
        assert {name: points[0]["loss"] for name, points in curves.items()} == {"classify": 0.5, "reply": 0.5}
        cost = jobs.cost(job.id)
        assert cost.calls > 0
        assert cost.total_usd is None
        kinds = [event.type for event in jobs.events.stream(job.id)]
        assert {"status", "train.curve", "eval.result", "done"} <= set(kinds)
        assert kinds[-1] == "done"

        assert job.artifact is not None
        self.artifact_runs(done, job.artifact.id, tmp_path)

    def records_can_be_downloaded(self, done: Done, files: Mapping[str, TrainingFile]) -> None:
        jobs, job_id = done.client.compile_jobs, done.job.id
        for file in files.values():
            plain = list(jobs.training_records(job_id, file.fine_tuning_job))
            messages = list(jobs.training_records(job_id, file.fine_tuning_job, format="openai"))
            assert len(plain) == len(messages) == file.rows
            assert {frozenset(record) for record in plain} == {frozenset({"prompt", "completion"})}
            assert messages == [{"messages": [*record["prompt"], *record["completion"]]} for record in plain]
        with pytest.raises(NotFoundError, match="no validation rows"):
            list(jobs.training_records(job_id, files["classify"].fine_tuning_job, part="validation"))
        self.lists_can_be_downloaded(done)

    def lists_can_be_downloaded(self, done: Done) -> None:
        path = f"{done.client.base_url}/v1/compile_jobs/{done.job.id}"
        headers = {"authorization": f"Bearer {done.client.api_key}"}
        coverage = httpx.get(f"{path}/training_files", headers=headers).json()["coverage"]
        assert (coverage["traces"], coverage["passed"]) == (24, 24)
        assert {key["predictor"]: key["rows"] + key["validation_rows"] for key in coverage["keys"]} == {"classify": 24, "reply": 24}
        lines = httpx.get(f"{path}/traces", params={"predictor": "reply"}, headers={**headers, "accept": "application/jsonl"})
        assert lines.headers["content-type"] == "application/jsonl"
        assert len({json.loads(line)["cursor"] for line in lines.text.splitlines()}) == len(lines.text.splitlines()) == 24 + 12 * 3
        assert httpx.get(f"{path}/traces", params={"predictor": "nobody", "format": "jsonl"}, headers=headers).text == ""
        self.a_predictors_traces_are_found(path, headers, len(lines.text.splitlines()))
        wrong = httpx.get(f"{path}/traces", params={"passed": False, "format": "jsonl"}, headers=headers).text.splitlines()
        assert {json.loads(line)["role"] for line in wrong} == {"baseline"}

    def a_predictors_traces_are_found(self, path: str, headers: dict[str, str], expected: int) -> None:
        """By what their facts say; where an earlier release wrote these, by the traces."""

        def found() -> int:
            return len(httpx.get(f"{path}/traces", params={"predictor": "reply", "format": "jsonl"}, headers=headers).text.splitlines())

        with unit_of_work() as s:
            s.execute(text("CREATE TEMPORARY TABLE whole AS SELECT digest, body FROM traces"))
            s.execute(text("UPDATE traces SET body = jsonb_set(CAST(body AS jsonb), '{calls}', '[]')::text"))
            s.commit()
            without_reading_traces = found()
            s.execute(text("UPDATE traces t SET body = w.body FROM whole w WHERE w.digest = t.digest"))
            s.execute(text("UPDATE row_facts SET data = (CAST(data AS jsonb) - 'called')::json WHERE kind = 'rollout'"))
            s.commit()
        assert (without_reading_traces, found()) == (expected, expected)

    def artifact_runs(self, done: Done, artifact_id: str, tmp_path: Path) -> None:
        asked = len(done.student.calls)
        called = done.client.artifacts.call(artifact_id, {"message": "Message 5 about account"})
        assert called.outputs["category"] == "account"
        program = stillhouse.load(artifact_id, client=done.client, cache_dir=tmp_path / "cache")
        assert program(message="Message 4 about technical").category == "technical"
        assert asyncio.run(program.acall(message="Message 3 about billing")).category == "billing"
        models = {call.body["model"] for call in done.student.calls[asked:]}
        assert models == set(done.client.artifacts.retrieve(artifact_id).models.values())
