"""A client whose requests are answered by a script."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from stillhouse import AsyncStillhouse, Stillhouse
from stillhouse.cli.main import app
from tests.support.scripted_lm import ScriptedLM
from tests.unit.client.dropin_server import Server, knows

Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


@dataclass
class Script:
    """Answers in order, the last one for ever; `requests` holds what was sent, `slept` the pauses."""

    answers: list[Answer]
    requests: list[httpx.Request] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else answer(request)


def reply(body: Any = None, status: int = 200, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json=body, headers=names)


def scripted(*answers: Answer, **options: Any) -> tuple[Stillhouse, Script]:
    script = Script(list(answers))
    client = Stillhouse("http://server", "sh_a_b", transport=httpx.MockTransport(script), sleep=script.slept.append, **options)
    return client, script


def scripted_async(*answers: Answer, **options: Any) -> tuple[AsyncStillhouse, Script]:
    script = Script(list(answers))
    return AsyncStillhouse("http://server", "sh_a_b", transport=httpx.MockTransport(script), **options), script


def asked(script: Script) -> list[tuple[str, str]]:
    """Method and path of each request."""
    return [(request.method, request.url.path) for request in script.requests]


def job(status: str = "queued", **fields: Any) -> dict[str, Any]:
    return {"id": "cjob-1", "object": "compile.job", "status": status, "created_at": 1, **fields}


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key of this machine's user is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="module")
def lm() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=knows) as made:
        yield made


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server, lm: ScriptedLM) -> Iterator[Stillhouse]:
    """Its gateway is the scripted LM."""
    with Stillhouse(lm.url.removesuffix("/v1"), "sh_a_b", transport=httpx.MockTransport(server), sleep=lambda _: None) as made:
        yield made


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Writes modules of the caller's own, which can be imported during the test."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    tops: set[str] = set()

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
            tops.add(name.partition("/")[0].removesuffix(".py"))
        importlib.invalidate_caches()

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        del sys.modules[name]


class Shell:
    """Runs commands against scripted answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.script = Script([])

    def answers(self, *answers: Answer) -> None:
        client, self.script = scripted(*answers, max_retries=0)
        self._monkeypatch.setattr("stillhouse.cli.output.Stillhouse", lambda: client)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    def sent(self, number: int = 0) -> Any:
        return json.loads(self.script.requests[number].content)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("COLUMNS", "200")
    return Shell(monkeypatch)


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    (tmp_path / "spec.json").write_text('{"predictors": []}')
    (tmp_path / "train.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    (tmp_path / "job.yaml").write_text(
        "# comments are welcome\nprogram: {file: spec.json}\ntrainset: {file: train.jsonl}\nmetric: {type: exact_match}\n"
        "metadata: {team: support}\n"
    )
    return str(tmp_path / "job.yaml")
