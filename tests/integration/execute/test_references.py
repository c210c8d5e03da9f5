"""A program that is code, with branch and loop, and a metric of its own: from its name to an artifact that loads where it is installed."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.catalog import artifacts
from distill.db import unit_of_work
from distill.rollouts import ProgramHost
from tests.integration.execute.house import House, PretendTrainer
from tests.support.installed import PACKAGE, make_runtime, module_file
from tests.support.scripted_lm import Answer, Ask, ScriptedLM

DESK = {"reference": f"{PACKAGE}.programs:make_desk", "kwargs": {"rounds": 3}}
METRIC = f"{PACKAGE}.metrics:right_team"
LOAD = """
import json, sys
from stillhouse_programs.artifact import load_artifact
program = load_artifact(sys.argv[1], "http://127.0.0.1:9")
print(json.dumps({name: predictor.lm.model for name, predictor in program.named_predictors()}))
"""
TEAMS = ("billing", "technical", "account")
ROWS = [{"message": f"Message {i} for {TEAMS[i % 3]}", "team": TEAMS[i % 3]} for i in range(12)]


def knows(ask: Ask) -> Answer:
    if "team" in ask.outputs:
        return {"team": ask.inputs["message"].split()[-1]}
    return {"answer": f"Draft {len(ask.inputs['draft'])}"}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    return tmp_path / "runtime"


@pytest.fixture
def house(database: str, tmp_path: Path, installed: Path) -> Iterator[House]:
    with (
        ScriptedLM(answer=knows) as teacher,
        ScriptedLM(answer=knows) as student,
        House(tmp_path, teacher, student, python=make_runtime(installed), references=(PACKAGE,)) as opened,
    ):
        yield opened


def described(house: House) -> tuple[dict[str, Any], dict[str, Any]]:
    """The program and the metric as the API stores them."""
    host = ProgramHost(house.ports.runners)
    program = host.describe(house.project_id, DESK)["program"]
    source = host.describe(house.project_id, {"reference": METRIC, "metric": True})["source"]
    return program, {"type": "reference", "reference": METRIC, "source": source}


class TestReference:
    def test_compiles_and_loads_where_its_package_is_installed(self, house: House, tmp_path: Path) -> None:
        program, metric = described(house)
        job = house.run(house.submit(ROWS, program, valset=ROWS[:3], metric=metric, multitask=False, demos="keep"))
        assert job.status == "succeeded", job.error
        assert job.evaluation is not None
        assert (job.evaluation["metric"], job.evaluation["compiled"]["score"]) == (METRIC, 1.0)

        assert isinstance(house.trainer, PretendTrainer)
        texts = [text for each in house.trainer.jobs for text in each["texts"]]
        told = Counter(text["prompt"][0]["content"].split("objective is:")[1].split()[0] for text in texts)
        assert told == {"Route": 12, "Answer": 12 + 2 * 4}, "billing gets its answer written over twice"

        folder = tmp_path / "artifact"
        with unit_of_work() as s:
            artifact = artifacts.of_job(s, job.id)
            assert artifact is not None
            files, manifest = {**artifact.files}, json.loads(artifact.manifest)
        for name, entry in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(house.store.read(entry["digest"]))
        models = {name: part["model"] for name, part in manifest["predictors"].items()}
        loaded = subprocess.run([house.python, "-I", "-c", LOAD, str(folder)], capture_output=True, text=True, check=True)
        assert json.loads(loaded.stdout) == {name: f"tune/{model}" for name, model in models.items()}

    @pytest.mark.slow
    def test_again_asks_the_teacher_nothing_and_a_changed_source_is_refused(self, house: House, installed: Path) -> None:
        program, metric = described(house)
        house.run(house.submit(ROWS, program, metric=metric))
        asked = len(house.teacher.calls)
        assert asked > 0
        assert house.run(house.submit(ROWS, program, metric=metric)).status == "succeeded"
        assert len(house.teacher.calls) == asked

        module = module_file(installed, "metrics")
        module.write_text(module.read_text().replace('ignore: str = ""', 'ignore: str = "account"'))
        stale = house.run(house.submit(ROWS, program, metric=metric))
        assert stale.error is not None
        assert (stale.status, stale.error["code"], stale.error["step"]) == ("failed", "source_changed", "validate")

        renewed = described(house)
        assert renewed[0] == program, "the metric's module is none of the program's"
        assert house.run(house.submit(ROWS, program, metric=renewed[1])).status == "succeeded"
        assert len(house.teacher.calls) == asked, "a changed metric scores the stored traces"
