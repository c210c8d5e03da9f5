"""The whole stack with a scripted teacher beside it: what a user of a real server sees, on a model that trains in seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.supervisor import Stack
from stillhouse import Stillhouse
from tests.e2e.lessons import teach
from tests.e2e.stacks import running_stack
from tests.support.scripted_lm import ScriptedLM


@pytest.fixture(scope="module")
def teacher() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=teach) as lm:
        yield lm


@pytest.fixture(scope="module")
def base_model(tiny_model: Path) -> str:
    return f"local/{tiny_model.name}"


@pytest.fixture(scope="module")
def server(teacher: ScriptedLM, tiny_model: Path, base_model: str) -> Iterator[Stack]:
    with running_stack(teacher, tiny_model, base_model=base_model) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Stack) -> Iterator[Stillhouse]:
    with Stillhouse(base_url=server.base_url, api_key=server.api_key) as opened:
        yield opened
