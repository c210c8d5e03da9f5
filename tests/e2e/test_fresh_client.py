"""What a user deploys: the client, DSPy and nothing else, in a virtual environment of its own, beside a server that runs elsewhere."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stack.supervisor import Stack
from stillhouse import Stillhouse
from tests.e2e.lessons import ANSWER, CATEGORY, LMS, PROGRAM, rows
from tests.support.environments import fresh, install_ours

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NOT_THERE = (
    "torch", "transformers", "peft", "celery", "sqlalchemy", "fastapi", "psycopg",
    "app", "distill", "engines", "migrations", "stack", "workers",
)  # fmt: skip
SCRIPT = f"""
import importlib.util, json, sys
import stillhouse

program = stillhouse.load(sys.argv[1])
answer = program(message="Message 101")
print(json.dumps({{
    "answer": [answer.category, answer.answer],
    "asked": {{name: predictor.lm.model for name, predictor in program.named_predictors()}},
    "answered": {{name: [entry["response_model"] for entry in predictor.lm.history] for name, predictor in program.named_predictors()}},
    "importable": [name for name in {NOT_THERE!r} if importlib.util.find_spec(name)],
}}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh virtual environment."""
    place = tmp_path_factory.mktemp("deployed")
    made = fresh(place / "venv", sys.executable)
    install_ours(made, place, "client[dspy]", "programs[dspy]")
    return made


@pytest.fixture(scope="module")
def job(client: Stillhouse) -> Any:
    made = client.compile_jobs.create(
        program=PROGRAM,
        program_name="deployed",
        trainset=rows(24),
        metric={"type": "exact_match", "fields": ["category"]},
        lms=LMS,
        multitask=False,
        num_threads=4,
    )
    done = client.compile_jobs.wait(made.id, timeout=400)
    assert done.status == "succeeded", done.error
    return done


@pytest.fixture(params=["downloaded by its id", "from a folder"])
def artifact(request: pytest.FixtureRequest, job: Any, client: Stillhouse, tmp_path: Path) -> str:
    if request.param == "downloaded by its id":
        return str(job.artifact.id)
    client.artifacts.download(job.artifact.id, tmp_path / "artifact")
    return str(tmp_path / "artifact")


class TestLoad:
    def test_in_a_fresh_process_each_predictor_asks_its_own_model(
        self, artifact: str, job: Any, python: Path, server: Stack, tmp_path: Path
    ) -> None:
        environment = {"STILLHOUSE_BASE_URL": server.base_url, "STILLHOUSE_API_KEY": server.api_key, "HOME": str(tmp_path)}
        done = subprocess.run(
            [python, "-c", SCRIPT, artifact], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout.splitlines()[-1])
        models = {child.predictor: child.fine_tuned_model for child in job.fine_tuning_jobs}
        assert said["asked"] == {name: f"tune/{model}" for name, model in models.items()}
        assert said["answered"] == {name: [model] for name, model in models.items()}
        # Each learned to say one thing, which the other could not say.
        assert said["answer"] == [CATEGORY, ANSWER]
        assert said["importable"] == []
