"""The house that these tests work in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from distill.catalog import keys, projects
from distill.db import unit_of_work
from tests.integration.execute.client_player import token
from tests.integration.execute.house import House, guesses, knows
from tests.support.scripted_lm import ScriptedLM


@pytest.fixture
def teacher() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=knows) as lm:
        yield lm


@pytest.fixture
def student() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=guesses) as lm:
        yield lm


@pytest.fixture
def house(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    with House(tmp_path, teacher, student) as opened:
        yield opened


@pytest.fixture
def api(house: House) -> Iterator[TestClient]:
    """The server's API, with a key of the house's project for jobs and models."""
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {token(house.project)}"
        yield client


@pytest.fixture
def operator(api: TestClient) -> TestClient:
    """The API with a key that may change projects and what they keep."""
    with unit_of_work() as s:
        scopes = ("jobs:read", "jobs:write", "aliases:write", "admin")
        api.headers["Authorization"] = f"Bearer {keys.create(s, projects.ensure(s, 'default').id, 'operator', scopes)[1]}"
    return api
