"""`prompt: "compact"`: the student is tuned on compact prompts, and evaluated, packaged and loaded with the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from distill.catalog import artifacts
from distill.db import unit_of_work
from distill.errors import Invalid
from distill.jobs import refiltering
from distill.jobs.models import Job
from tests.integration.execute.house import SUPPORT, House, PretendTrainer, guesses, rows
from tests.support.scripted_lm import Answer, Ask

COMPACT: dict[str, Any] = {"lms": {"student": {"prompt": "compact"}}}
LOAD = """
import asyncio, sys
import dspy
from stillhouse_programs.artifact import load_artifact

program = load_artifact(sys.argv[1], sys.argv[2])
print(program(message=sys.argv[3]).answer)

async def streamed():
    stream = dspy.streamify(program, stream_listeners=[dspy.streaming.StreamListener("answer")])
    return [part.chunk async for part in stream(message=sys.argv[3]) if isinstance(part, dspy.streaming.StreamResponse)]

print("".join(asyncio.run(streamed())))
"""


def answers_compactly(ask: Ask) -> Answer:
    """A fine-tuned model that writes bare values; before it is tuned it guesses in the format that it is asked for."""
    if not ask.model.startswith("sh-"):
        return guesses(ask)
    said = str(ask.messages[-1]["content"]).split()[-1]
    return said if ask.messages[0]["content"].startswith("Route") else f"Team {said} will help."


def tuned_rows(house: House) -> list[dict[str, Any]]:
    assert isinstance(house.trainer, PretendTrainer)
    return list(house.trainer.jobs[-1]["texts"])


def manifest_of(job: Job) -> dict[str, Any]:
    with unit_of_work() as s:
        made = artifacts.of_job(s, job.id)
        assert made is not None
        return dict(json.loads(made.manifest))


def unpacked(house: House, job: Job, folder: Path) -> Path:
    with unit_of_work() as s:
        made = artifacts.of_job(s, job.id)
        assert made is not None
        files = dict(made.files)
    for name, entry in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(house.store.read(entry["digest"]))
    return folder


def shown(job_id: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The job over the API, which has connections of its own: it starts when the job is there."""
    api: TestClient = request.getfixturevalue("api")
    return dict(api.get(f"/v1/compile_jobs/{job_id}").json())


@pytest.fixture
def house(house: House) -> House:
    house.student.answer = answers_compactly
    return house


def test_rows_evaluation_and_a_fresh_process_have_the_same_prompts(house: House, tmp_path: Path) -> None:
    demo = {"message": "A demo about billing", "category": "billing"}
    program = {**SUPPORT, "predictors": [{**SUPPORT["predictors"][0], "demos": [demo]}, SUPPORT["predictors"][1]]}
    job = house.compile(rows(12), program=program, valset=rows(3), **COMPACT)
    assert job.status == "succeeded", job.error
    assert job.evaluation is not None
    assert (job.evaluation["compiled"]["score"], job.evaluation["compiled"]["parse_failures"]) == (1.0, 0)

    made = {(row["prompt"][1]["content"], row["completion"][0]["content"]) for row in tuned_rows(house)}
    assert made == {
        *((row["message"], row["category"]) for row in rows(12)),
        *((f"message: {row['message']}\ncategory: {row['category']}", f"Team {row['category']} will help.") for row in rows(12)),
    }
    prompts = [row["prompt"] for row in tuned_rows(house)]
    tuned = [call.body["messages"] for call in house.student.calls if call.body["model"].startswith("sh-")]
    assert all(messages in prompts for messages in tuned)
    before = [call.body["messages"] for call in house.student.calls if not call.body["model"].startswith("sh-")]
    assert before
    assert all(
        "[[ ## message ## ]]" in messages[-1]["content"] for messages in [*before, *(c.body["messages"] for c in house.teacher.calls)]
    )
    manifest = manifest_of(job)
    assert (manifest["prompt_adapter"], manifest["demos"]) == ({"type": "compact"}, {"taken": "drop"})

    count, folder = len(house.student.calls), unpacked(house, job, tmp_path / "artifact")
    asked = [sys.executable, "-c", LOAD, str(folder), house.student.url.removesuffix("/v1"), rows(12)[7]["message"]]
    said = subprocess.run(asked, capture_output=True, text=True, check=True, env={**os.environ, "STILLHOUSE_API_KEY": "k"})
    assert said.stdout == "Team technical will help.\n" * 2
    assert [call.body.get("stream", False) for call in house.student.calls[count:]] == [False, False, False, True]
    assert all(call.body["messages"] in prompts for call in house.student.calls[count:])


class TestAuto:
    def test_is_compact(self, house: House, request: pytest.FixtureRequest) -> None:
        job = house.compile(rows(6), prompt="auto", holdout={"n": 0})
        assert job.status == "succeeded", job.error
        assert manifest_of(job)["prompt_adapter"] == {"type": "compact"}
        read = shown(job.id, request)
        assert (read["prompt"], read["lms"]["student"]["prompt"], read["demos"]) == ("auto", "compact", "drop")

    def test_is_full_where_the_demos_are_kept_and_the_job_says_so(self, house: House) -> None:
        job = house.compile(rows(6), prompt="auto", demos="keep", holdout={"n": 0})
        assert manifest_of(job)["prompt_adapter"] == {"type": "chat"}
        (warning,) = [each for each in job.warnings if each["code"] == "full_prompts"]
        assert warning["message"] == "prompt: `auto` chose full prompts, since the demos are kept."


def test_the_default_is_full(house: House, request: pytest.FixtureRequest) -> None:
    read = shown(house.submit(rows(6)), request)
    assert (read["prompt"], "prompt" in read["lms"]["student"], read["demos"]) == ("full", False, "auto")


def test_rows_of_the_teachers_prompts_are_not_compact(house: House) -> None:
    with pytest.raises(Invalid, match=r'lms\.student\.prompt: rows with the prompts of the teacher .* use render: "student"'):
        house.submit(rows(6), render="teacher", **COMPACT)


def test_a_teacher_has_no_prompt_to_be_tuned_on(house: House) -> None:
    with pytest.raises(
        Invalid, match=r"teacher\[0\]\.lms\.student\.prompt: only the student is tuned; `prompt_adapter` says how a teacher is asked"
    ):
        house.submit(rows(6), teacher=[{"lms": {"student": {"prompt": "compact"}}}])


def test_lms_of_one_program_have_one_prompt(house: House) -> None:
    classify, reply = SUPPORT["predictors"]
    two = {**SUPPORT, "predictors": [{**classify, "lm": "small"}, reply]}
    job = house.compile(rows(6), program=two, lms={"small": {"prompt": "compact"}, "student": {}})
    assert job.error is not None
    assert (job.error["code"], job.error["param"]) == ("mixed_prompt_adapters", "lms")
    assert "its LMs ask for chat and compact" in job.error["message"]


def test_refiltering_changes_the_prompt_without_a_teacher(house: House) -> None:
    first = house.compile(rows(6), holdout={"n": 0})
    asked = len(house.teacher.calls)
    with unit_of_work() as s:
        made = refiltering.refilter(s, house.project_id, None, first.id, {"prompt": "compact"})
    job = house.run(made.id)
    assert (job.status, len(house.teacher.calls)) == ("succeeded", asked)
    assert "Message 0 about billing" in {row["prompt"][1]["content"] for row in tuned_rows(house)}
