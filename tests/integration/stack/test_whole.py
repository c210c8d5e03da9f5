"""The whole stack with its real parts."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from stack.network import answers
from stack.supervisor import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def get(url: str, key: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as reply:
        return json.load(reply)


def test_every_part_runs_and_the_server_is_ready(stack: Stack) -> None:
    assert stack.crew
    names = {child.part.name for child in stack.crew.children()}
    workers = {"worker-light", "worker-rollouts", "worker-train"}
    assert names == {"postgres", "valkey", "lm-host", "lm-agent", "dispatcher", "api", *workers}
    assert answers(f"{stack.base_url}/readyz", timeout_seconds=60)


def test_the_first_key_opens_the_api_and_no_key_does_not(stack: Stack) -> None:
    assert get(f"{stack.base_url}/v1/models", stack.api_key)["object"] == "list"
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(f"{stack.base_url}/v1/models")
    with refused.value:
        assert refused.value.code == 401


def test_the_doctor_finds_it_well(stack: Stack) -> None:
    """Run as an operator would in another terminal: knowing nothing but the home."""
    command = [sys.executable, "-m", "stack.cli", "doctor", "--home", str(stack.home)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STILLHOUSE", "DATABASE", "REDIS"))}
    done = subprocess.run(command, env=environment, cwd=Path("/"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "✓ Connection house" in done.stdout
    assert re.search(r"✓ Workers +1 for light, 1 for rollouts, 1 for train", done.stdout)
