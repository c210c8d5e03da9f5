"""The whole stack with a scripted teacher beside it: what a user of a real server sees, on a model that trains in seconds."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.supervisor import Stack
from stillhouse import Stillhouse
from tests.e2e.lessons import teach
from tests.support.scripted_lm import ScriptedLM


@pytest.fixture(scope="module")
def teacher() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=teach) as lm:
        yield lm


@pytest.fixture(scope="module")
def server(teacher: ScriptedLM, tiny_model: Path) -> Iterator[Stack]:
    connections = {"teacher": {"base_url": teacher.url, "models": ["big"], "default_teacher": True}}
    timers = {"STILLHOUSE_TIMERS__LEASE_SECONDS": "6", "STILLHOUSE_TIMERS__BEAT_SECONDS": "1", "STILLHOUSE_TIMERS__REAP_GRACE_SECONDS": "1"}
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory(prefix="stillhouse-e2e-") as home:
        monkeypatch.setenv("STILLHOUSE_MODELS", str(tiny_model.parent))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        extra = {"STILLHOUSE_CONNECTIONS": json.dumps(connections), "STILLHOUSE_TIMERS__REAP_PERIOD_SECONDS": "1", **timers}
        with Stack(Path(home), fast=True, base_model=f"local/{tiny_model.name}", environment=extra) as running:
            yield running


@pytest.fixture(scope="module")
def client(server: Stack) -> Iterator[Stillhouse]:
    with Stillhouse(base_url=server.base_url, api_key=server.api_key) as opened:
        yield opened
