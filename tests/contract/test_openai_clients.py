"""Stock openai-python, of two major versions, each in an environment that has nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stack.supervisor import Stack
from tests.integration.api.conftest import Tokens, address, tokens  # noqa: F401 - fixtures
from tests.support.environments import fresh, uv
from tests.support.scripted_lm import Fail, ScriptedLM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SESSION = Path(__file__).with_name("openai_session.py")
VERSIONS = {"3.54": "openai==3.54.*", "2": "openai>=2,<3"}


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the client, and what that needs."""
    made = fresh(tmp_path_factory.mktemp("openai") / "venv", sys.executable)
    uv("pip", "install", "--python", str(made), VERSIONS[request.param])
    return made


def session(python: Path, base_url: str, key: str, part: str) -> dict[str, Any]:
    command = [str(python), "-I", str(SESSION), base_url, key, part]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class TestWholePath:
    def test_from_a_file_to_answers_of_the_tuned_model(self, python: Path, stack: Stack, tiny_model: Path) -> None:
        found = session(python, stack.base_url, stack.api_key, "whole_path")
        assert found["file"] == [True, True, True]
        assert (found["statuses"][0], found["statuses"][-1]) == ("validating_files", "succeeded"), found["error"]
        assert set(found["statuses"]) <= {"validating_files", "queued", "running", "succeeded"}
        assert found["model"].startswith(f"openai/ft:local/{tiny_model.name}:contract::")
        listed, tokens_trained, seed = found["job"]
        assert (listed, tokens_trained > 0, seed, found["listed"]) == (True, True, 1, True)
        assert len(set(found["ids"])) == len(found["ids"]) > 4
        times = [event[0] for event in found["events"]]
        assert times == sorted(times, reverse=True)
        assert {"message", "metrics"} == {event[2] for event in found["events"]}
        assert found["checkpoint"][0] == found["model"]
        # It learned to say one thing.
        assert found["said"] == ["We will help."] * 3
        assert found["responded"] == ["response.completed", "We will help."]
        assert found["completed"][0] == found["model"]
        assert found["completed"][1] > 0
        assert found["embedded"] == "unsupported"
        assert len(found["several"]) == 3
        assert all("help" not in text for text in found["several"])
        assert found["shaped"] == '"billing"'
        (logprobs,) = found["logprobs"]
        assert min(logprobs) < 0 == max(logprobs)
        assert found["refused"] == ["presence_penalty", "logit_bias"]


class TestErrors:
    @pytest.fixture
    def busy(self) -> Iterator[ScriptedLM]:
        with ScriptedLM(answer=lambda ask: Fail(429, retry_after=600)) as lm:
            yield lm

    @pytest.fixture
    def lm_url(self, busy: ScriptedLM) -> str:
        return busy.url

    def test_each_is_its_own_exception(self, python: Path, address: str, tokens: Tokens) -> None:  # noqa: F811
        found = session(python, address, tokens.all, "errors")
        assert {status: seen[:5] for status, seen in found.items() if status != "version"} == {
            "400": ["BadRequestError", 400, "file_not_found", "training_file", "invalid_request_error"],
            "401": ["AuthenticationError", 401, "invalid_api_key", None, "authentication_error"],
            "404": ["NotFoundError", 404, "file_not_found", "id", "not_found_error"],
            "409": ["ConflictError", 409, "job_over", "id", "conflict_error"],
            "422": ["UnprocessableEntityError", 422, "missing_field", "trainset", "invalid_request_error"],
            "429": ["RateLimitError", 429, "rate_limited", None, "rate_limit_error"],
        }
        assert all(seen[5] for status, seen in found.items() if status != "version")
