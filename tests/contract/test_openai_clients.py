"""Stock openai-python, of two major versions, each in an environment that has nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api.conftest import Tokens, address, tokens  # noqa: F401 - fixtures
from tests.support.scripted_lm import Fail, ScriptedLM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SESSION = Path(__file__).with_name("openai_session.py")
VERSIONS = {"3.54": "openai==3.54.*", "2": "openai>=2,<3"}


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the client, and what that needs."""
    place = tmp_path_factory.mktemp("openai") / "venv"
    _uv("venv", "--python", sys.executable, str(place))
    _uv("pip", "install", "--python", str(place / "bin" / "python"), VERSIONS[request.param])
    return place / "bin" / "python"


def _uv(*arguments: str) -> None:
    done = subprocess.run([Path(sys.executable).with_name("uv"), "--quiet", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def session(python: Path, base_url: str, key: str) -> dict[str, Any]:
    command = [str(python), "-I", str(SESSION), base_url, key]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class TestErrors:
    @pytest.fixture
    def busy(self) -> Iterator[ScriptedLM]:
        with ScriptedLM(answer=lambda ask: Fail(429, retry_after=600)) as lm:
            yield lm

    @pytest.fixture
    def lm_url(self, busy: ScriptedLM) -> str:
        return busy.url

    def test_each_is_its_own_exception(self, python: Path, address: str, tokens: Tokens) -> None:  # noqa: F811
        found = session(python, address, tokens.all)
        assert {status: seen[:5] for status, seen in found.items() if status != "version"} == {
            "400": ["BadRequestError", 400, "file_not_found", "training_file", "invalid_request_error"],
            "401": ["AuthenticationError", 401, "invalid_api_key", None, "authentication_error"],
            "404": ["NotFoundError", 404, "file_not_found", "id", "not_found_error"],
            "409": ["ConflictError", 409, "job_over", "id", "conflict_error"],
            "422": ["UnprocessableEntityError", 422, "missing_field", "trainset", "invalid_request_error"],
            "429": ["RateLimitError", 429, "rate_limited", None, "rate_limit_error"],
        }
        assert all(seen[5] for status, seen in found.items() if status != "version")
