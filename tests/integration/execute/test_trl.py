"""Training files as they are downloaded, in the hands of stock TRL. It is in an environment beside this one, as `make bench` pins it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from distill.jobs.records import records
from tests.integration.execute.client_player import TOML
from tests.integration.execute.house import SUPPORT, House, configured, rows
from tests.support.environments import ROOT, uv
from tests.support.scripted_lm import ScriptedLM
from tests.support.tiny_model import build_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SESSION = Path(__file__).with_name("trl_session.py")
END = "<|im_end|>\n"
DEMO = {"message": "The demo's own message", "category": "account"}


def is_here(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


@pytest.fixture
def house(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    with configured(tmp_path, TOML, teacher, student) as opened:
        yield opened


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TRL, and what it needs that this environment lacks, in the versions that the bench has."""
    place = tmp_path_factory.mktemp("trl")
    pinned = re.split(r"\n(?=[a-z])", (ROOT / "bench" / "requirements.txt").read_text(encoding="utf-8"))
    wanted = place / "requirements.txt"
    wanted.write_text("\n".join(each for each in pinned if not is_here(each.partition("==")[0])) + "\n", encoding="utf-8")
    uv(
        "pip", "install", "--python", sys.executable, "--target", str(place / "site"),
        "--no-deps", "--require-hashes", "-r", str(wanted),
    )  # fmt: skip
    return place / "site"


def downloaded(api: TestClient, job_id: str, folder: Path) -> list[Path]:
    """The training files of a job."""
    path, files = f"/v1/compile_jobs/{job_id}/training_files", []
    for one in api.get(path).json()["data"]:
        files.append(folder / f"{one['fine_tuning_job']}.jsonl")
        files[-1].write_bytes(api.get(f"{path}/{one['fine_tuning_job']}/content").content)
    return files


def learned(packages: Path, base: Path, place: Path, *files: Path) -> list[dict[str, Any]]:
    command = [sys.executable, str(SESSION), str(base), str(place), *map(str, files)]
    offline = {"HF_HUB_OFFLINE": "1", "HOME": str(place), "OMP_NUM_THREADS": "1"}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), **offline}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    assert all(loss > 0 for each in found for loss in each["losses"])
    return found


class TestStockTrl:
    def test_it_learns_the_last_answer_of_each_record_and_nothing_else(
        self, house: House, api: TestClient, packages: Path, tiny_model: Path, tmp_path: Path
    ) -> None:
        """Demos stand in the prompts as turns of the assistant: they are read, and not learned."""
        first, second = SUPPORT["predictors"]
        program = {**SUPPORT, "predictors": [{**first, "demos": [DEMO]}, second]}
        job = house.compile(rows(4), program=program, multitask=False, demos="keep", holdout={"n": 0})
        assert job.status == "succeeded", job.error
        files = downloaded(api, job.id, tmp_path)
        made = [[json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in files]
        assert len(files) == 2
        assert any(DEMO["message"] in turn["content"] for turn in made[0][0]["prompt"])
        for file, found in zip(made, learned(packages, tiny_model, tmp_path / "out", *files), strict=True):
            assert found["learned"] == [each["completion"][0]["content"] + END for each in file]
            for each, text in zip(file, found["read"], strict=True):
                assert all(turn["content"] in text for turn in each["prompt"])

    def test_tool_calls_with_other_arguments_in_each_record(self, packages: Path, tmp_path: Path) -> None:
        """A table of them has a column for every argument of any: none may reach a record that lacks it."""
        arguments = ['{"zeta": "Zoe", "b": 2}', '{"other": [1]}']
        stored = tmp_path / "stored.jsonl"
        stored.write_text("".join(json.dumps(record(each)) + "\n" for each in arguments), encoding="utf-8")
        file = tmp_path / "tools.jsonl"
        file.write_bytes(b"".join(records(stored.open("rb"), "trl")))
        base = build_tiny_model(tmp_path / "base", tools=True)
        (found,) = learned(packages, base, tmp_path / "out", file)
        calls = [f'<tool_call>\n{{"name": "look", "arguments": {each}}}\n</tool_call>{END}' for each in arguments]
        assert [text.strip() for text in found["learned"]] == [call.strip() for call in calls]
        assert all(text.count(call.strip()) == 2 for text, call in zip(found["read"], calls, strict=True))


def record(arguments: str) -> dict[str, Any]:
    """As they are stored: a call in the prompt, what it returned, and another call to be learned."""
    call = {"id": "call_0", "type": "function", "function": {"name": "look", "arguments": arguments}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    prompt = [{"role": "user", "content": "where?"}, turn, {"role": "tool", "content": "here", "tool_call_id": "call_0"}]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    return {"prompt": [*prompt, {"role": "user", "content": "and now?"}], "completion": [turn], "tools": tools}
