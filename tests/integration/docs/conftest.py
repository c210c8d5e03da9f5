"""A server as the documents describe it, with a base model that answers and trains in seconds.

Its stillhouse.toml is the one in docs/how-to/connect-an-lm-host.md, with the provider's address replaced by that of a scripted LM.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from stack.supervisor import Stack
from tests.integration.docs.documents import Shell, blocks
from tests.support.scripted_lm import Answer, Ask, ScriptedLM

CONNECT = "docs/how-to/connect-an-lm-host.md"
KEY = "a-key"


def _route(ask: Ask) -> Answer:
    """A good teacher: the labels of the documents' rows follow from one word each."""
    message = ask.inputs.get("message", "").lower()
    technical = any(word in message for word in ("crash", "error", "slow", "upload", "sync"))
    account = any(word in message for word in ("password", "log in", "email", "account"))
    return {"team": "technical" if technical else "account" if account else "billing"}


@pytest.fixture(scope="session")
def provider() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=_route, api_key=KEY) as lm:
        yield lm


@pytest.fixture(scope="session")
def settings(provider: ScriptedLM, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of both terminals: the settings file that a reader is told to write, and the provider's key."""
    config = tmp_path_factory.mktemp("settings") / "stillhouse.toml"
    config.write_text(blocks(CONNECT, "toml")[0])
    return {
        "STILLHOUSE_CONFIG": str(config),
        "STILLHOUSE_CONNECTIONS__OPENAI__BASE_URL": provider.url,
        "OPENAI_API_KEY": KEY,
    }


@pytest.fixture(scope="session")
def documented(settings: Mapping[str, str], tiny_model: Path) -> Iterator[Stack]:
    more = {"STILLHOUSE_MODELS": str(tiny_model.parent), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="stillhouse-docs-") as home, ExitStack() as stacks:
        with pytest.MonkeyPatch.context() as monkeypatch:  # not for tests elsewhere that run while it goes on
            for name, value in {**settings, **more}.items():
                monkeypatch.setenv(name, value)
            running = stacks.enter_context(Stack(Path(home), fast=True, base_model=f"local/{tiny_model.name}"))
        yield running


@pytest.fixture
def reader(documented: Stack, settings: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """Somebody at a shell in an empty folder, with the virtual environment active and the home of the running server."""
    monkeypatch.chdir(tmp_path)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STILLHOUSE_HOME", str(documented.home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with Shell(tmp_path, os.environ) as shell:
        yield shell
