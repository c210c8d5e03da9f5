"""The client on the newest Python that it supports, installed from its wheel: alone, then with its extras.

The rest of the suite runs on the oldest that the server supports. Without the newest these are skipped, and fail in .ci/run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.api.conftest import SPEC, Tokens
from tests.support.environments import ROOT, fresh, install_ours

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NEWEST = "python3.13"
SESSION = Path(__file__).with_name("client_session.py")
ALONE = {
    "annotated-types", "anyio", "certifi", "h11", "httpcore", "httpx", "idna", "pydantic", "pydantic_core", "stillhouse",
    "typing-inspection", "typing_extensions",
}  # fmt: skip


@pytest.fixture(scope="module")
def newest() -> str:
    found = shutil.which(NEWEST)
    if found is None:
        say = pytest.fail if os.environ.get("ALL_PYTHONS") else pytest.skip
        say(f"{NEWEST} is not on PATH: install it, so that the client is tested on it")
    return str(found)


@pytest.fixture(scope="module")
def alone(newest: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the client, httpx and pydantic."""
    place = tmp_path_factory.mktemp("alone")
    python = fresh(place / "venv", newest)
    install_ours(python, place, "client")
    return python


class TestAlone:
    def test_a_session_with_a_server(self, alone: Path, address: str, tokens: Tokens, tmp_path: Path) -> None:
        done = subprocess.run(
            [alone, "-I", SESSION, address, tokens.all],
            input=json.dumps(SPEC), env={}, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["python"].startswith(NEWEST.removeprefix("python") + ".")
        assert Path(said["from"]).is_relative_to(alone.parents[1])
        assert set(said["installed"]) == ALONE
        assert said["waiting"] == ["201", "cancelled"]
        assert (said["refused"], said["awaited"]) == ("NotFoundError", ["done"])

    def test_the_command_says_which_extra_it_lacks(self, alone: Path) -> None:
        done = subprocess.run([alone.with_name("stillhouse"), "me"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, f"typer is not installed: pip install '{alone.parents[2]}/client[cli]'\n")


class TestWithExtras:
    def test_the_clients_own_tests_pass(self, newest: str, tmp_path: Path) -> None:
        python = fresh(tmp_path / "venv", newest)
        stand_in = ("sqlalchemy", "psycopg[binary]", "pydantic-settings", "structlog", "tenacity")  # for the real rules of LM names
        install_ours(python, tmp_path, "client[cli,notebook]", "programs[dspy]", "numpy", "pytest", "pytest-timeout", *stand_in)
        tests = ROOT / "tests" / "unit" / "client"
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--confcutdir={tests}", str(tests)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        summary = done.stdout.splitlines()[-1]
        assert "passed" in summary
        assert "skipped" not in summary
