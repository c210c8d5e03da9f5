"""DSPy's own optimizer, unmodified, with nothing but two environment variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stack.supervisor import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class TestBootstrapFinetune:
    def test_each_predictor_gets_a_model_that_answers_with_its_own_adapter(self, stack: Stack, tiny_model: Path, tmp_path: Path) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "DSPY_CACHEDIR": str(tmp_path / "cache"),
            "OPENAI_BASE_URL": f"{stack.base_url}/v1",
            "OPENAI_API_KEY": stack.api_key,
        }
        script = Path(__file__).with_name("stock_dspy.py")
        done = subprocess.run(
            [sys.executable, script, f"local/{tiny_model.name}"], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads(done.stdout.splitlines()[-1])
        assert len(set(found["models"].values())) == 2
        assert all(model.startswith(f"openai/ft:local/{tiny_model.name}:") for model in found["models"].values())
        assert found["answered"] == found["models"]
        # Each learned to say one thing: the other's answer would not even parse.
        assert found["answer"] == found["taught"]
