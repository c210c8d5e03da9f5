"""The API over a real database, with a project, keys and two connections that nothing listens on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from app.main import create_app
from distill.catalog import keys, projects
from distill.db import unit_of_work
from distill.settings import get_settings
from stillhouse.cli.main import app as cli
from tests.integration.core.world import PROGRAM
from tests.support.scripted_lm import ScriptedLM

Run = Callable[..., Result]
SPEC = PROGRAM
ROWS: list[dict[str, Any]] = [
    {"message": "I was charged twice", "category": "billing"},
    {"message": "It crashes", "category": "technical"},
    {"message": "Where is my invoice?", "category": "billing"},
]


@dataclass(frozen=True)
class Tokens:
    """Tokens of one project's keys, by what they may do; `other` belongs to another project, `metrics` to those who run the server."""

    all: str
    read: str
    use: str
    admin: str
    other: str
    metrics: str


CONNECTIONS = """
[connections.house]
base_url = "LM_URL"
models = ["tiny"]
default_student = true
supports = ["lora", "structured_outputs", "tools"]
trainer = "local"

[connections.big]
base_url = "LM_URL"
models = ["big-model"]
default_teacher = true
"""


@pytest.fixture
def lm(request: pytest.FixtureRequest) -> Iterator[ScriptedLM]:
    """The LM behind the connections, of modules with the mark `lm_answers`."""
    mark = request.node.get_closest_marker("lm_answers")
    with ScriptedLM(answer=mark.args[0]) as server:
        yield server


@pytest.fixture
def lm_url(request: pytest.FixtureRequest) -> str:
    """Where the connections point; nothing listens there unless the module has an LM."""
    if request.node.get_closest_marker("lm_answers") is None:
        return "http://127.0.0.1:9/v1"
    lm: ScriptedLM = request.getfixturevalue("lm")
    return lm.url


@pytest.fixture
def tokens(database: str, tmp_path: Path, lm_url: str) -> Tokens:
    (tmp_path / "stillhouse.toml").write_text(CONNECTIONS.replace("LM_URL", lm_url), encoding="utf-8")
    get_settings.cache_clear()
    with unit_of_work() as s:
        project, other = projects.ensure(s, "support"), projects.ensure(s, "other")

        def token(project_id: str, *scopes: str) -> str:
            return keys.create(s, project_id, "test", scopes)[1]

        every = ("jobs:read", "jobs:write", "aliases:write", "models:use")
        return Tokens(
            all=token(project.id, *every),
            read=token(project.id, "jobs:read"),
            use=token(project.id, "models:use"),
            admin=token(project.id, "admin"),
            other=token(other.id, *every),
            metrics=token(projects.ensure(s, projects.OPERATORS).id, "metrics:read"),
        )


@pytest.fixture
def bare(tokens: Tokens) -> Iterator[TestClient]:
    """A client that sends no key."""
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        yield client


@contextmanager
def serving() -> Iterator[str]:
    """A real server on a free port; its base URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        config = uvicorn.Config(create_app(), log_config=None, lifespan="on", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        httpx.get(f"{url}/livez", timeout=30)
        yield url
        server.should_exit = True
        thread.join(60)


@pytest.fixture
def address(tokens: Tokens) -> Iterator[str]:
    """The base URL of a real server, for streams and for the SDK."""
    with serving() as url:
        yield url


@pytest.fixture
def api(bare: TestClient, tokens: Tokens) -> TestClient:
    """A client whose key may do everything but administer."""
    bare.headers["Authorization"] = f"Bearer {tokens.all}"
    return bare


def job_body(**changes: Any) -> dict[str, Any]:
    """The smallest request that works, with changes."""
    return {"program": SPEC, "trainset": ROWS, "metric": "exact_match", **changes}


def fault(reply: Any, status: int = 422) -> tuple[str, str | None, str]:
    """Code, param and message of a refusal."""
    error = reply.json()["error"]
    assert reply.status_code == status, error
    return error["code"], error["param"], error["message"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A shell of somebody who has no credentials yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(cli, list(arguments), input=typed)

    return call


@pytest.fixture
def known(address: str, tokens: Tokens, monkeypatch: pytest.MonkeyPatch, run: Run) -> Run:
    """A shell with address and key in its environment."""
    monkeypatch.setenv("STILLHOUSE_BASE_URL", address)
    monkeypatch.setenv("STILLHOUSE_API_KEY", tokens.all)
    return run
