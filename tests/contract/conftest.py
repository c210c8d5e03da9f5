"""The LM hosts that every contract test runs over: the embedded one, on a tiny model, and the one that tests write answers for."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn

from tests.support.scripted_lm import Answer, Ask, Fail, ScriptedLM

KEY = "contract-key"
SCRIPTED_MODEL = "scripted"


@dataclass(frozen=True)
class Host:
    """An LM host that listens: `url` has no /v1; `model` is one that it serves."""

    url: str
    model: str

    def client(self, key: str = KEY) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=60)


@pytest.fixture(scope="module", params=["scripted", "embedded"])
def host(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[Host]:
    with _scripted() if request.param == "scripted" else _embedded(tiny_model) as running:
        yield running


@pytest.fixture
def client(host: Host) -> Iterator[httpx.Client]:
    with host.client() as opened:
        yield opened


@contextmanager
def _scripted() -> Iterator[Host]:
    def answer(ask: Ask) -> Answer:
        if ask.model != SCRIPTED_MODEL:
            return Fail(404, "model_not_found", f"no model {ask.model}")
        choices = ask.body.get("structured_outputs", {}).get("choice")
        return str(choices[0]) if choices else "one two three"

    with ScriptedLM(answer=answer, models=(SCRIPTED_MODEL,), api_key=KEY) as lm:
        yield Host(lm.url.removesuffix("/v1"), SCRIPTED_MODEL)


@contextmanager
def _embedded(tiny_model: Path) -> Iterator[Host]:
    import torch

    from engines.base_models import resolve
    from engines.lmhost.engine import Engine, EngineOptions
    from engines.lmhost.server import create_app

    torch.set_num_threads(1)
    engine = Engine(resolve(str(tiny_model)), EngineOptions("float32"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(engine, KEY), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield Host(f"http://127.0.0.1:{listener.getsockname()[1]}", engine.base.id)
        server.should_exit = True
        thread.join()
    engine.close()
